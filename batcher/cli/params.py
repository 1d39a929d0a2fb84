"""How the command line spells durations, sizes, rates and shares."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import click

from batcher.bucket.place import is_bucket_url
from batcher.shards import Shard, shard_of_environment

_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"": 1, "b": 1}
_SIZE_UNITS |= {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)}
_SIZE_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}
_RATE_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class Duration(click.ParamType[float]):
    """Seconds (fractions too), or ``15m``, ``2h``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(rf"{_NUMBER}\s*([a-z]*)", value.strip().lower())
        if match is None or match[2] not in _DURATION_UNITS:
            self.fail(f"{value!r} is not a duration; write seconds, or 15m, 2h", param, ctx)
        return float(match[1]) * _DURATION_UNITS[match[2]]


class Size(click.ParamType[int]):
    """Bytes, or ``500MB``, ``2GiB``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(rf"{_NUMBER}\s*([a-z]*)", value.strip().lower())
        if match is None or match[2] not in _SIZE_UNITS:
            self.fail(f"{value!r} is not a size; write bytes, or 500MB, 2GiB", param, ctx)
        return int(float(match[1]) * _SIZE_UNITS[match[2]])


class Rate(click.ParamType[float]):
    """``N/s`` or ``N/m``; converted to a number a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(rf"{_NUMBER}/([a-z]+)", value.strip().lower())
        if match is None or match[2] not in _RATE_UNITS or not float(match[1]):
            self.fail(f"{value!r} is not a rate; write 5/s or 30/m", param, ctx)
        return float(match[1]) / _RATE_UNITS[match[2]]


class Share(click.ParamType[tuple[float, bool]]):
    """A number of jobs, or ``N%`` of them: a number and whether it is a percentage."""

    name = "N|N%"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, bool]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(rf"{_NUMBER}(%?)", value.strip())
        if match is None or (match[2] and float(match[1]) > 100):
            self.fail(f"{value!r} is neither a number of jobs nor a percentage", param, ctx)
        return float(match[1]), bool(match[2])


class Poll(click.ParamType[float | str]):
    """``auto``, or a fixed interval."""

    name = "auto|SECONDS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        if value == "auto" or isinstance(value, float):
            return value  # type: ignore[no-any-return]
        interval_s = Duration().convert(value, param, ctx)
        if interval_s <= 0:
            self.fail("the interval must be above 0", param, ctx)
        return interval_s


class Concurrency(click.ParamType[int | str]):
    """A number of requests, or ``auto``."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto" or isinstance(value, int):
            return value  # type: ignore[no-any-return]
        if re.fullmatch(r"0*[1-9][0-9]{0,8}", value) is None:
            self.fail(f"{value!r} is neither a number of requests (1 or more) nor auto", param, ctx)
        return int(value)


class ShardType(click.ParamType[Shard]):
    """``I/N``, 1-based, or ``auto``: as the environment says."""

    name = "I/N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        if isinstance(value, Shard):
            return value
        if value.strip() == "auto":
            return shard_of_environment(os.environ)
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", value.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"{value!r} is not a shard; write 1/4 .. 4/4, or auto", param, ctx)
        return Shard(int(match[2]), int(match[1]))


class OutputPlace(click.ParamType["str | Path"]):
    """A run directory as a Path, or the URL of a bucket as it is."""

    name = "RUN_DIR"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | Path:
        if isinstance(value, Path) or is_bucket_url(value):
            return value  # type: ignore[no-any-return]
        folder = click.Path(path_type=Path, file_okay=False, readable=False)
        return Path(folder.convert(value, param, ctx))


class Dollars(click.ParamType[float]):
    """An amount of USD, with or without a ``$``."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            amount = float(str(value).lstrip("$"))
        except ValueError:
            amount = math.nan
        if not (math.isfinite(amount) and amount >= 0):
            self.fail(f"{value!r} is not an amount of USD", param, ctx)
        return amount

"""Types of option values: how each is read from text, and written as text.

``parse`` raises ValueError with the problem and the correct form. Values of Python, TOML and YAML (a
number, a path) are converted to text first, so that each rule exists once.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from batcher.options.facts import PERIODS

_NUMBER = r"(\d+(?:\.\d+)?)"
_WHOLE_MAX_DIGITS = 9
_DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS: dict[str, int] = {"": 1, "b": 1}
_SIZE_UNITS |= {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)}
_SIZE_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}
_RATE_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class ValueKind:
    """A type of value. ``metavar`` names it in help; ``choices`` are words that a shell completes:
    values, or how they begin.

    ``show`` writes a value so that ``parse`` reads it back. ``is_path``: relative to the file that
    contains it. ``separator`` divides several values in one text; None if the text is always one value.
    ``at_last_equals``: in ``NAME=VALUE`` the name may contain ``=`` (or be empty), the value may not.
    ``is_secret``: a URL that grants access to anyone who knows it: it is never shown completely.
    ``bare_name``: the name of a value without ``NAME=`` in a mapping; None if each needs a name.
    ``name`` reads the name in a pair, as ``parse`` its value.
    """

    metavar: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str
    choices: tuple[str, ...] = ()
    is_path: bool = False
    separator: str | None = None
    at_last_equals: bool = False
    bare_name: str | None = None
    is_secret: bool = False
    name: Callable[[str], str] = str


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("it can't contain a null character")
    return text


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return _text(text)


def _flag(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE + _FALSE:
        raise ValueError(f"{text!r} is neither true nor false")
    return word in _TRUE


def duration_s(text: str) -> float:
    """Seconds, fractions too, or ``15m``, ``2h``, as seconds."""
    number, unit = _measured(text, _DURATION_UNITS)
    if unit is None:
        raise ValueError(f"{text!r} is not a duration; write seconds, or 15m, 2h")
    return number * unit


def size_bytes(text: str) -> int:
    """Bytes, or ``500MB``, ``2GiB``, as bytes."""
    number, unit = _measured(text, _SIZE_UNITS)
    if unit is None:
        raise ValueError(f"{text!r} is not a size; write bytes, or 500MB, 2GiB")
    return int(number * unit)


def _measured(text: str, units: Mapping[str, float]) -> tuple[float, float | None]:
    match = re.fullmatch(rf"{_NUMBER}\s*([a-z]*)", text.strip().lower(), re.ASCII)
    return (float(match[1]), units.get(match[2])) if match is not None else (0.0, None)


def rate_per_s(text: str) -> float:
    """``5/s``, ``30/m`` or ``100/h``, as a number per second."""
    match = re.fullmatch(rf"{_NUMBER}/([a-z]+)", text.strip().lower(), re.ASCII)
    if match is None or match[2] not in _RATE_UNITS or not float(match[1]):
        raise ValueError(f"{text!r} is not a rate; write 5/s or 30/m")
    return float(match[1]) / _RATE_UNITS[match[2]]


def share(text: str) -> tuple[float, bool]:
    """A number of jobs, or ``N%`` of them: the number, and whether it is a percentage."""
    match = re.fullmatch(rf"{_NUMBER}(%?)", text.strip(), re.ASCII)
    if match is None or (match[2] and float(match[1]) > 100):
        raise ValueError(f"{text!r} is neither a number of jobs nor a percentage")
    return float(match[1]), bool(match[2])


def dollars(text: str) -> float:
    """An amount of USD, with or without a ``$``."""
    try:
        amount = float(text.strip().removeprefix("$"))
    except ValueError:
        amount = math.nan
    if not (math.isfinite(amount) and amount >= 0):
        raise ValueError(f"{text!r} is not an amount of USD")
    return amount


def period(name: str) -> str:
    """``day``, ``month``, or one of them and a pattern of models: ``day:fal:*``."""
    when, colon, models = (part.strip() for part in name.partition(":"))
    if when not in PERIODS or (colon and not models):
        raise ValueError(f"{name!r}: write day=USD, month=USD, or day:MODELS=USD as in day:fal:*=5")
    return f"{when}{colon}{models}"


def whole_above_0(text: str) -> int:
    """1, 2, 3, ..."""
    if re.fullmatch(r"0*[1-9][0-9]*", text.strip(), re.ASCII) is None or len(text) > _WHOLE_MAX_DIGITS:
        raise ValueError(f"{text!r} is not a whole number above 0")
    return int(text)


def _whole(text: str) -> int:
    if re.fullmatch(r"-?[0-9]{1,9}", text.strip(), re.ASCII) is None:
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _not_negative(text: str) -> int:
    if (number := _whole(text)) < 0:
        raise ValueError(f"{text!r} is less than 0")
    return number


def _auto_or(parse: Callable[[str], Any], otherwise: str) -> Callable[[str], Any]:
    """Accepts ``auto``, and anything that ``parse`` accepts."""

    def read(text: str) -> Any:
        if text.strip() == "auto":
            return "auto"
        try:
            return parse(text)
        except ValueError:
            raise ValueError(f"{text!r} is neither {otherwise} nor auto") from None

    return read


def _above_0(parse: Callable[[str], float], what: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = parse(text)
        if value <= 0:
            raise ValueError(f"{what} must be above 0")
        return value

    return read


def _part(text: str) -> float:
    value = _decimal(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not from 0 to 1")
    return value


def _decimal(text: str) -> float:
    if re.fullmatch(_NUMBER, text.strip(), re.ASCII) is None:
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def _shard(text: str) -> Any:
    from batcher.jobs.shard import Shard, shard_of_environment

    if text.strip() == "auto":
        return shard_of_environment(os.environ)
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip(), re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"{text!r} is not a shard; write 1/4 .. 4/4, or auto")
    return Shard(int(match[2]), int(match[1]))


def _show_shard(value: Any) -> str:
    return f"{value.number}/{value.count}"


def show_number(value: float) -> str:
    """A number's exact value, without an exponent and without an unnecessary fraction."""
    text = f"{value:f}" if float(f"{value:f}") == value else f"{value:.20f}"
    return text.rstrip("0").rstrip(".")


def _show_duration(value: float) -> str:
    for unit, seconds in (("h", 3600), ("m", 60)):
        if value >= seconds and value % seconds == 0:
            return f"{show_number(value / seconds)}{unit}"
    return f"{show_number(value)}s"


def _show_size(value: int) -> str:
    for unit in ("TiB", "GiB", "MiB", "TB", "GB", "MB"):
        if value >= _SIZE_UNITS[unit.lower()] and value % _SIZE_UNITS[unit.lower()] == 0:
            return f"{value // _SIZE_UNITS[unit.lower()]}{unit}"
    return str(value)


def _show_rate(value: float) -> str:
    for unit, seconds in (("s", 1.0), ("m", 60.0), ("h", 3600.0)):
        shown = show_number(round(value * seconds, 9))
        if float(shown) / seconds == value:
            return f"{shown}/{unit}"
    return f"{show_number(value)}/s"


def _on_lock(text: str) -> str | float:
    """``fail`` or ``skip`` as they are, ``wait=10m`` as seconds."""
    word = text.strip()
    if word in ("fail", "skip"):
        return word
    if not word.startswith("wait="):
        raise ValueError(f"{text!r} is not one of fail, skip, wait=DURATION (wait=10m)")
    return duration_s(word.removeprefix("wait="))


def _show_on_lock(value: str | float) -> str:
    return value if isinstance(value, str) else f"wait={_show_duration(value)}"


def _show_share(value: tuple[float, bool]) -> str:
    return f"{show_number(value[0])}{'%' if value[1] else ''}"


def _show_ids(value: str | frozenset[str]) -> str:
    """A set of ids comes from Python only and can't be part of a command; a file can hold it."""
    return value if isinstance(value, str) else "@FILE"


def _show_auto_or(show: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: value if value == "auto" else show(value)


def choice(*words: str) -> ValueKind:
    """One of ``words``."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not one of {', '.join(words)}")
        return text

    return ValueKind("|".join(words), parse, choices=words)


def as_text(value: Any) -> str:
    """A value of Python, TOML or YAML as it would be typed. Raises ValueError for other types."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return show_number(value) if math.isfinite(value) else str(value)
    if isinstance(value, str | int | PurePath):
        return str(value)
    raise ValueError(f"{value!r:.80} is neither text nor a number")


FLAG = ValueKind("", _flag, show=as_text)
MODEL = ValueKind("ID", _filled)
PLACE = ValueKind("RUN_DIR", _filled, is_path=True)
FOLDER = ValueKind("DIR", _filled, is_path=True)
IDS = ValueKind("GLOB|@FILE|@marks:MARK", _filled, show=_show_ids)
COLUMNS = ValueKind("COLUMN", _text, separator=",")
FIELDS = ValueKind("FIELD", _filled, separator=",")
RENAMED = ValueKind("COLUMN=FIELD", _filled, separator=",", at_last_equals=True)
VARIABLE = ValueKind("NAME=VALUE", _text)
HOSTS = ValueKind("HOST", _filled, separator=",")
ASSIGNED = ValueKind("FIELD=VALUE", _text)
NAME = ValueKind("NAME", _filled)
CHARACTER = ValueKind("CHAR", _text)
SCHEDULER = ValueKind("tcp://HOST:PORT|local:N", _filled)
COUNT = ValueKind("N", whole_above_0)
SEED = ValueKind("N", _whole)
TIMES = ValueKind("N", _not_negative)
ALL_MODELS = "*"
CONCURRENCY = ValueKind(
    "N|auto|MODEL=N",
    _auto_or(whole_above_0, "a number of requests (1 or more)"),
    choices=("auto",),
    separator=",",
    bare_name=ALL_MODELS,
)
SHARD = ValueKind("I/N|auto", _shard, show=_show_shard, choices=("auto",))
RATE = ValueKind("N/s|N/m", rate_per_s, show=_show_rate)
DURATION = ValueKind("DURATION", duration_s, show=_show_duration)
POLL = ValueKind(
    "auto|SECONDS",
    _auto_or(_above_0(duration_s, "the interval"), "an interval above 0 (seconds, or 2m)"),
    show=_show_auto_or(_show_duration),
    choices=("auto",),
)
SIZE = ValueKind("SIZE", size_bytes, show=_show_size)
USD = ValueKind("USD", dollars, show=show_number)
PER_PERIOD = ValueKind(
    "day=USD,month=USD", dollars, show=show_number, separator=",", at_last_equals=True, name=period
)
SHARE = ValueKind("N|N%", share, show=_show_share)
ON_LOCK = ValueKind(
    "fail|skip|wait=DURATION", _on_lock, show=_show_on_lock, choices=("fail", "skip", "wait=")
)
ADDRESS = ValueKind("URL", _filled, is_secret=True)
_EVENT = choice("start", "success", "failure", "attention")
EVENTS = ValueKind("EVENT,...", _EVENT.parse, choices=_EVENT.choices, separator=",")
FILE = ValueKind("FILE", _filled, is_path=True)
SPEED = ValueKind("FACTOR", _above_0(_decimal, "the speed"), show=show_number)
PART = ValueKind("0..1", _part, show=show_number)

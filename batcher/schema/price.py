"""The price of one generation: so much a unit, times the units that its inputs ask for, or not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from batcher.schema.dialect import INT_MAX, number_in

USD_DIGITS = 9

DURATION_FIELDS = ("duration", "duration_seconds", "duration_s", "seconds")
COUNT_FIELDS = (
    "num_images", "num_outputs", "num_videos", "num_generations", "number_of_images",
    "number_of_outputs", "number_of_videos", "image_count", "n",
)  # fmt: skip
TIMED_UNITS = frozenset({"second", "seconds"})
COUNTED_UNITS = frozenset(
    word + plural
    for word in ("output", "image", "video", "request", "generation")
    for plural in ("", "s")
)


class Quote(NamedTuple):
    """What one generation costs: ``unit_price_usd`` × ``seconds`` × ``outputs``, in USD.

    ``seconds`` is None where the price is by output; ``unit`` is the unit in the singular.
    """

    unit_price_usd: float
    unit: str
    seconds: float | None
    outputs: float

    @property
    def usd(self) -> float:
        """The price in USD, without the dust of binary fractions."""
        seconds = 1.0 if self.seconds is None else self.seconds
        return round(self.unit_price_usd * seconds * self.outputs, USD_DIGITS)


class Price(NamedTuple):
    """A model's price as the catalogue names it: ``base_usd`` for one ``unit``; None is unknown."""

    base_usd: float | None
    unit: str | None

    @property
    def unit_word(self) -> str:
        """The unit as one bare word: ``second`` for "per Second"."""
        return (self.unit or "").strip().lower().removeprefix("per ").strip()

    @property
    def is_understood(self) -> bool:
        """Whether a job's price can be computed at all."""
        return self.base_usd is not None and self.unit_word in TIMED_UNITS | COUNTED_UNITS

    def quote(self, fields: Mapping[str, Any], inputs: Mapping[str, Any]) -> Quote | None:
        """What a job with these ``inputs`` costs; None where price, unit or duration isn't known.

        ``fields`` are the schemas of the model's inputs: a field that is left out counts with its
        default.
        """
        if self.base_usd is None or not self.is_understood:
            return None
        timed = self.unit_word in TIMED_UNITS
        seconds = _number(DURATION_FIELDS, fields, inputs, None) if timed else 1.0
        outputs = _number(COUNT_FIELDS, fields, inputs, 1.0)
        if seconds is None or outputs is None:
            return None
        return Quote(
            self.base_usd, self.unit_word.removesuffix("s"), seconds if timed else None, outputs
        )


def _number(
    names: tuple[str, ...], fields: Mapping[str, Any], inputs: Mapping[str, Any], missing: float | None
) -> float | None:
    """The first field of ``names`` that the schema has: the input's number, else its default.

    ``missing`` where there is no such field or nobody gave it a value, None where it holds no usable
    number.
    """
    name = next((name for name in names if name in fields), None)
    if name is None:
        return missing
    value = inputs.get(name)
    value = fields[name].get("default") if value is None else value
    if value is None:
        return missing
    return amount(number_in(value) if isinstance(value, str) else value) or None


def amount(value: Any) -> float | None:
    """``value`` where it is a number that can be an amount: finite, and not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < INT_MAX else None

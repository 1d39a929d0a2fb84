"""The price of one generation, if known: the price per unit, times the units that its inputs request."""

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
    """The price of one generation in USD: ``unit_price_usd`` × ``seconds`` × ``outputs``.

    ``seconds`` is None if the price is per output; ``unit`` is the unit in the singular.
    """

    unit_price_usd: float
    unit: str
    seconds: float | None
    outputs: float

    @property
    def usd(self) -> float:
        """The price in USD, without floating-point noise."""
        seconds = 1.0 if self.seconds is None else self.seconds
        return round(self.unit_price_usd * seconds * self.outputs, USD_DIGITS)


class Price:
    """A model's price in its catalogue entry: ``base_usd`` for one ``unit``; None is unknown.

    ``fields`` are the schemas of the model's inputs: a missing field counts with its default.
    """

    def __init__(self, base_usd: float | None, unit: str | None, fields: Mapping[str, Any]) -> None:
        self.base_usd = base_usd
        self.unit_word = (unit or "").strip().lower().removeprefix("per ").strip()
        self.is_understood = bool(base_usd) and self.unit_word in TIMED_UNITS | COUNTED_UNITS
        self._unit = self.unit_word.removesuffix("s")
        self._timed = self.unit_word in TIMED_UNITS
        self._duration = _Number.first(DURATION_FIELDS, fields)
        self._count = _Number.first(COUNT_FIELDS, fields)
        numbers = (self._duration if self._timed else None, self._count)
        self._names = tuple(number.name for number in numbers if number is not None)

    def values_in(self, inputs: Mapping[str, Any]) -> str:
        """The values that a quote depends on, as text: equal texts have equal quotes."""
        return repr([inputs.get(name) for name in self._names])

    def quote(self, inputs: Mapping[str, Any]) -> Quote | None:
        """The quote for a job with these ``inputs``; None if price, unit or duration is unknown."""
        if self.base_usd is None or not self.is_understood:
            return None
        seconds = None
        if self._timed:
            seconds = self._duration.read(inputs, None) if self._duration is not None else None
            if seconds is None:
                return None
        outputs = self._count.read(inputs, 1.0) if self._count is not None else 1.0
        return None if outputs is None else Quote(self.base_usd, self._unit, seconds, outputs)


class _Number(NamedTuple):
    """A field that gives the number of units, and its value if it is missing."""

    name: str
    default: Any

    @classmethod
    def first(cls, names: tuple[str, ...], fields: Mapping[str, Any]) -> _Number | None:
        """The first of ``names`` that the schema has."""
        name = next((name for name in names if name in fields), None)
        return None if name is None else cls(name, fields[name].get("default"))

    def read(self, inputs: Mapping[str, Any], missing: float | None) -> float | None:
        """The input's number, else the default, else ``missing``; None if it is not a number."""
        value = inputs.get(self.name)
        value = self.default if value is None else value
        if value is None:
            return missing
        return amount(number_in(value) if isinstance(value, str) else value) or None


def amount(value: Any) -> float | None:
    """``value`` if it is a number that can be an amount: finite, and not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < INT_MAX else None

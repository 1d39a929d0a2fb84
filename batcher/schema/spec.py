"""One model: its input schema, the types of its text values, and its price.

The price of one generation is the price per unit, times the units that its inputs request.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from batcher.jobs.identity import Spellings, Texts, is_text_name
from batcher.schema.dialect import (
    INT_MAX,
    MAX_DEPTH,
    SchemaError,
    media_of,
    number_in,
    reader_of,
    resolved,
    translate,
    types_of,
)
from batcher.schema.problems import Problem, Validator, as_sent, described, unknown_field

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
NAME_SETS_KEPT = 1024
_SCALARS = frozenset({str, int, float, bool, type(None)})


PRICE_DRIVERS = frozenset(
    {"resolution", "quality", "size", "image_size", "mode", "tier", "generate_audio", "audio", "sound"}
    | {"enable_audio", "with_audio", "fps", "upscale", "upscale_factor", "width", "height", "megapixels"}
)
"""Inputs that raise the price of many models above their base price (docs/api.md, "Inputs")."""


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

    def values_in(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Hashable]:
        """The values that each row's quote depends on: rows with equal ones have equal quotes."""
        columns = [[row.get(name) for row in rows] for name in self._names]
        kinds = [[*map(type, column)] for column in columns]
        if not all(_SCALARS.issuperset(kind) for kind in kinds):
            return [*map(repr, zip(*columns, strict=True))]
        return [*zip(*columns, *kinds, strict=True)] if columns else [()] * len(rows)

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
    """``value`` if it is a number that can be an amount: not negative, and sums of many are finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < INT_MAX else None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The inputs and the price of one model.

    ``origin`` is "catalogue" or "built-in". ``schema`` is JSON Schema (2020-12) of the inputs.
    ``base_price_usd`` is the price of one ``price_unit`` in USD, None if unknown.
    ``fields`` are the inputs' schemas, ``media`` maps each media field to its kind (image, video,
    audio), ``typed`` holds the text reader of each field that doesn't accept any text, ``lists`` names
    those that take only a list, ``undescribed`` those that are required but have no property (published
    schemas contradict themselves: any value is accepted), ``perhaps_media`` those that are text and may
    be the URL of media, ``spellings`` maps all spellings of a value to one, ``capitals`` maps the
    lower-case spelling of fields with capitals to their own.
    """

    model_id: str
    origin: str
    schema: dict[str, Any]
    display_name: str = ""
    categories: tuple[str, ...] = ()
    base_price_usd: float | None = None
    price_unit: str | None = None
    pricing_note: str | None = None
    fields: Mapping[str, Mapping[str, Any]] = field(init=False, repr=False)
    media: Mapping[str, str] = field(init=False, repr=False)
    typed: Mapping[str, Callable[[str], Any]] = field(init=False, repr=False, compare=False)
    lists: frozenset[str] = field(init=False, repr=False)
    perhaps_media: frozenset[str] = field(init=False, repr=False)
    undescribed: tuple[str, ...] = field(init=False, repr=False)
    spellings: Spellings = field(init=False, repr=False, compare=False)
    capitals: Mapping[str, str] = field(init=False, repr=False)
    price: Price = field(init=False, repr=False, compare=False)
    validator: Validator = field(init=False, repr=False, compare=False)
    _values: Validator = field(init=False, repr=False, compare=False)
    """The same schema, except that it allows unknown fields and requires none."""
    _rows: Validator = field(init=False, repr=False, compare=False)
    """The schema of a list of inputs."""
    _items: Mapping[str, Callable[[str], Any]] = field(init=False, repr=False, compare=False)
    _by_names: dict[frozenset[str], tuple[Problem, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = self.schema.get("required")
        required = [n for n in named if isinstance(n, str)] if isinstance(named, list) else []
        undescribed = [n for n in dict.fromkeys(required) if n not in self.schema["properties"]]
        properties = {**self.schema["properties"], **{name: {} for name in undescribed}}
        object.__setattr__(self, "schema", {**self.schema, "properties": properties})
        fields = {name: resolved(schema, self.schema) for name, schema in properties.items()}
        derived = {
            "fields": fields,
            "media": {name: kind for name, schema in fields.items() if (kind := media_of(name, schema))},
            "typed": {
                name: reader_of(schema)
                for name, schema in fields.items()
                if types_of(schema) - {"string", "null"} or "enum" in schema
            },
            "lists": frozenset(
                n for n, schema in fields.items() if types_of(schema) - {"null"} == {"array"}
            ),
            "undescribed": tuple(undescribed),
            "perhaps_media": frozenset(name for name, s in fields.items() if _may_take_path(name, s)),
            "spellings": Spellings({n: texts_in(s, self.schema) for n, s in fields.items()}),
            "capitals": {name.lower(): name for name in fields if name != name.lower()},
            "price": Price(self.base_price_usd, self.price_unit, fields),
            "validator": Validator(self.model_id, self.schema),
            "_values": Validator(self.model_id, _without_names(self.schema)),
            "_rows": Validator(self.model_id, _of_rows(self.schema)),
            "_items": {n: reader_of(schema.get("items")) for n, schema in fields.items()},
            "_by_names": {},
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def price_varies(self) -> tuple[str, ...]:
        """The inputs on which the price may depend in a way that the catalogue's price doesn't tell."""
        return tuple(name for name in self.fields if name in PRICE_DRIVERS)

    @classmethod
    def from_catalogue(cls, entry: Any) -> ModelSpec:
        """The spec in an answer of ``GET /v1/models/{model_id}``.

        Raises SchemaError if the answer is not usable. An invalid price counts as unknown, and invalid
        vendor rules are ignored: the API checks them anyway.
        """
        for with_rules in (True, False):
            spec = _spec(entry, "catalogue", with_rules=with_rules)
            try:
                spec.validator.compile()
            except SchemaError:
                if not with_rules:
                    raise
            else:
                break
        return spec

    def type_text(self, name: str, text: str) -> Any:
        """``text`` (a CSV cell, a ``--set``) with the type that the schema gives field ``name``.

        Text that doesn't fit the type stays text, so that :meth:`problems` reports it.
        """
        convert = self.typed.get(name)
        return text if convert is None else convert(text)

    def problems(self, inputs: dict[str, Any]) -> list[Problem]:
        """The problems of ``inputs``, each with its field; empty if there are none.

        Local media count as text, because they are sent as ``data:`` URIs.
        """
        try:
            if self.validator.is_valid(inputs):
                return []
        except ValueError:  # local media are not JSON values
            pass
        sent = as_sent(inputs)
        found = dict(self._problems_of_names(frozenset(sent)))
        if not self._values.is_valid(sent):
            for error in self._values.errors(sent):
                for name, what in described(self.fields, error):
                    found.setdefault(name, what)
        return list(found.items())

    def are_valid(self, rows: list[dict[str, Any]]) -> bool:
        """Whether no inputs in ``rows`` have a problem, in one call. If not, see :meth:`problems`."""
        try:
            return self._rows.is_valid(rows)
        except (ValueError, SchemaError):
            return False

    def _problems_of_names(self, names: frozenset[str]) -> tuple[Problem, ...]:
        """Unknown and missing fields. Cached, because most rows of a table have the same fields."""
        found = self._by_names.get(names)
        if found is None:
            if len(self._by_names) >= NAME_SETS_KEPT:
                self._by_names.clear()
            found = self._by_names[names] = tuple(self._judged(names))
        return found

    def _judged(self, names: frozenset[str]) -> Iterator[Problem]:
        if self.schema.get("additionalProperties") is False:
            for name in sorted(names - self.fields.keys()):
                yield name, unknown_field(name, self.fields)
        for name in self.schema.get("required") or ():
            if name not in names:
                yield name, "required, but missing"

    def item_of(self, name: str, text: str) -> Any:
        """``text`` with the type of an item of the list ``name``."""
        return self._items[name](text)

    def quote(self, inputs: Mapping[str, Any]) -> Quote | None:
        """The price of one generation and its factors; None if unknown."""
        return self.price.quote(inputs)

    def price_usd(self, inputs: Mapping[str, Any]) -> float | None:
        """The price of one generation in USD; None if price, unit or duration is unknown."""
        quote = self.quote(inputs)
        return None if quote is None else quote.usd


def _may_take_path(name: str, schema: Mapping[str, Any]) -> bool:
    """Whether a field may take media although its schema only says that it is text, or lists of text."""
    types = types_of(schema) - {"null"}
    free = types <= {"string", "array"} and "enum" not in schema
    return free and media_of(name, schema) is None and not is_text_name(name)


def _without_names(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without its rules on which fields are allowed or required."""
    kept = {key: value for key, value in schema.items() if key != "required"}
    if kept.get("additionalProperties") is False:
        del kept["additionalProperties"]
    return kept


def _of_rows(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a list of what ``schema`` is of, which still can refer to its own parts."""
    return {"type": "array", "items": {"$id": "urn:batcher:inputs", **schema}}


def texts_in(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Texts:
    """Which part of a value of ``schema`` can only be text: see :data:`~batcher.jobs.identity.Texts`."""
    if depth > MAX_DEPTH or not isinstance(schema, dict):
        return False
    schema = resolved(schema, root)
    types = types_of(schema) - {"null"}
    if types == {"string"}:
        return True
    if types == {"array"}:
        return texts_in(schema.get("items"), root, depth + 1)
    properties = schema.get("properties")
    if types == {"object"} and isinstance(properties, dict):
        return {name: texts_in(inner, root, depth + 1) for name, inner in properties.items()}
    return False


def _spec(entry: Any, origin: str, *, with_rules: bool = True) -> ModelSpec:
    model_id = entry.get("model_id") if isinstance(entry, dict) else None
    if not isinstance(model_id, str) or not model_id:
        raise SchemaError("the catalogue's answer names no model_id")
    schema = entry.get("input_schema")
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        raise SchemaError(f"{model_id}: the catalogue gives no input schema with properties")
    try:
        translated = translate(schema, with_rules=with_rules)
    except SchemaError as error:
        raise SchemaError(f"{model_id}: its input schema is broken: {error}") from None
    categories = entry.get("categories")
    categories = categories if isinstance(categories, list) else []
    return ModelSpec(
        model_id=model_id,
        origin=origin,
        schema={"additionalProperties": False, **translated, "type": "object"},
        display_name=_text(entry.get("display_name")) or model_id,
        categories=tuple(c for c in categories if isinstance(c, str)),
        base_price_usd=amount(entry.get("base_price_usd")),
        price_unit=_text(entry.get("price_unit")),
        pricing_note=_text(entry.get("pricing_note")),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


KLING = _spec(
    {
        "model_id": "kling/kling-2-1/master/image-to-video",
        "display_name": "Kling 2.1 Master, image to video",
        "categories": ["image-to-video"],
        "input_schema": {
            "type": "object",
            "required": ["prompt", "image_url"],
            "properties": {
                "prompt": {"type": "string"},
                "image_url": {"type": "string", "format": "image_uri"},
                "duration": {"type": "integer", "enum": [5, 10], "default": 5},
                "aspect_ratio": {"type": "string", "enum": ["16:9", "1:1", "9:16"], "default": "16:9"},
                "negative_prompt": {"type": "string"},
                "cfg_scale": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
            },
        },
    },
    "built-in",
)
"""The documented inputs of the vendor's own example. Its price is only known online."""

BUILT_IN: Mapping[str, ModelSpec] = {KLING.model_id: KLING}
"""Models whose inputs are known without the network, by model id."""

"""One model: its compiled input schema, the types of its text values, and its price."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from batcher.jobs.identity import Spellings, Texts, is_text_name
from batcher.jobs.job import LocalMedia
from batcher.schema.dialect import (
    MAX_DEPTH,
    SchemaError,
    media_of,
    reader_of,
    resolved,
    translate,
    types_of,
)
from batcher.schema.price import Price, Quote, amount
from batcher.schema.wording import Problem, described, unknown_field

NAME_SETS_KEPT = 1024


class Validator:
    """A schema, compiled on first use, because importing the compiler is slow."""

    def __init__(self, model_id: str, schema: dict[str, Any]) -> None:
        self._model_id = model_id
        self._schema = schema
        self.is_valid: Callable[[Any], bool] = self._compile_and_check

    def compile(self) -> None:
        """Raises SchemaError if the schema is invalid. Fetches nothing."""
        import jsonschema_rs

        try:
            compiled = jsonschema_rs.Draft202012Validator(self._schema, retriever=_refuse_to_fetch)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise SchemaError(f"{self._model_id}: its input schema is broken: {reason}") from None
        self._compiled = compiled
        self.is_valid = compiled.is_valid

    def errors(self, value: Any) -> Iterator[Any]:
        """All errors of ``value``. Call it only after :attr:`is_valid`."""
        return iter(self._compiled.iter_errors(value))

    def _compile_and_check(self, value: Any) -> bool:
        self.compile()
        return self.is_valid(value)


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"a reference to {uri} is not followed")


PRICE_DRIVERS = frozenset(
    {"resolution", "quality", "size", "image_size", "mode", "tier", "generate_audio", "audio", "sound"}
    | {"enable_audio", "with_audio", "fps", "upscale", "upscale_factor", "width", "height", "megapixels"}
)
"""Inputs that raise the price of many models above their base price (API.md, "Inputs")."""


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
                if types_of(schema) - {"string", "null"}
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
        sent = _as_sent(inputs)
        found = dict(self._problems_of_names(frozenset(sent)))
        if not self._values.is_valid(sent):
            for error in self._values.errors(sent):
                for name, what in described(self.fields, error):
                    found.setdefault(name, what)
        return list(found.items())

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


def _as_sent(value: Any) -> Any:
    """``value`` with local media replaced by the beginning of the ``data:`` URI that will be sent."""
    if isinstance(value, LocalMedia):
        return f"data:{value.media_type};base64,"
    if isinstance(value, list):
        return [_as_sent(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _as_sent(item) for key, item in value.items()}
    return str(value) if isinstance(value, str) else value


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

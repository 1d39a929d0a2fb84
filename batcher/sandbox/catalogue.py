"""The models of the sandbox: their inputs, their prices, and how they are simulated.

The catalogues are data (``catalogues/{api}.json``), in the vendor's own dialect of JSON Schema.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from batcher.sandbox.journal import MODEL_API

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator

OutputKind = Literal["video", "videos", "image", "images", "audio", "workflow"]
"""A workflow gives an image, a clip and a preview."""

MEDIA_FORMATS = ("image_uri", "video_uri", "audio_uri")
MEDIA_SCHEMES = ("https://", "data:")
TYPES = {"float": "number"}
RULES = {
    "min_length": "minLength",
    "max_length": "maxLength",
    "min_items": "minItems",
    "max_items": "maxItems",
    "min": "minimum",
    "max": "maximum",
}
"""The vendor's ``validation_rule`` → JSON Schema's keyword."""

MODEL_KIND = "model"
MODEL_URL = "https://www.runcomfy.com/models/{}"
_CHARACTERS_PRICED = 1000


class Simulation(msgspec.Struct, frozen=True):
    """How a model is simulated: key under ``output``, ranges of time in seconds."""

    output: OutputKind
    queue_s: tuple[float, float]
    run_s: tuple[float, float]
    instances: int = 0
    """Workers of this model alone; 0: it shares those of the sandbox."""
    wake_s: float = 0.0
    """How long such a worker takes to start."""


class Model(msgspec.Struct, frozen=True):
    """One entry of the catalogue. ``input_schema`` is the vendor's, not yet JSON Schema."""

    model_id: str
    display_name: str
    description: str
    categories: tuple[str, ...]
    base_price_usd: float
    price_unit: Literal["second", "output", "thousand_characters"]
    input_schema: dict[str, Any]
    simulation: Simulation
    pricing_note: str | None = None
    api: str = ""
    """The API that offers it: the file's name, so not in the file itself."""

    def listing(self, *, include_schema: bool) -> dict[str, Any]:
        """The API's description of this model."""
        listed = {
            "model_id": self.model_id,
            "display_name": self.display_name,
            "kind": MODEL_KIND,
            "description": self.description,
            "model_url": MODEL_URL.format(self.model_id),
            "categories": self.categories,
            "base_price_usd": self.base_price_usd,
            "price_unit": self.price_unit,
            "required_inputs": self.input_schema.get("required", []),
        }
        if self.pricing_note is not None:
            listed["pricing_note"] = self.pricing_note
        return listed | ({"input_schema": self.input_schema} if include_schema else {})

    def value(self, inputs: dict[str, Any], field: str) -> Any:
        """An input's value, or the schema's default for it, or None."""
        schema = self.input_schema["properties"].get(field, {})
        return inputs.get(field, schema.get("default"))

    def price_usd(self, inputs: dict[str, Any]) -> float:
        """The price of one job with these (valid) inputs, in USD."""
        units: float
        match self.price_unit:
            case "second":
                units = float(self.value(inputs, "duration"))
            case "output":
                units = self.value(inputs, "num_images") or self.value(inputs, "num_outputs") or 1
            case "thousand_characters":
                units = len(inputs["text"]) / _CHARACTERS_PRICED
        return round(self.base_price_usd * units, 6)

    def problems(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """The problems of ``inputs``, as the ``detail`` of a 422: place, message, rule."""
        return [
            {
                "loc": ["body", *(error.instance_path or _missing(error.message))],
                "msg": error.message,
                "type": str(error.schema_path[-1]),
            }
            for error in _validator(self.api, self.model_id).iter_errors(inputs)
        ]


def _missing(message: str) -> list[str]:
    # An error of "required" points at the object, and only its message has the field.
    return [message.split('"')[1]] if message.endswith("is a required property") else []


@cache
def catalogue(api: str = MODEL_API) -> dict[str, Model]:
    """All models of an API by id, in the order of its file."""
    data = resources.files(__package__).joinpath("catalogues", f"{api}.json").read_bytes()
    models = msgspec.json.decode(data, type=list[Model])
    return {model.model_id: msgspec.structs.replace(model, api=api) for model in models}


def find(api: str, search: str, category: str) -> list[Model]:
    """Models of ``category`` with ``search`` in id, name or description (any case)."""
    wanted = search.lower()
    return [
        model
        for model in catalogue(api).values()
        if wanted in f"{model.model_id} {model.display_name} {model.description}".lower()
        and (not category or category in model.categories)
    ]


def json_schema(vendor: dict[str, Any]) -> dict[str, Any]:
    """The vendor's dialect as JSON Schema: ``float`` and ``validations`` are translated."""
    schema = {key: _translated(value) for key, value in vendor.items() if key != "validations"}
    if isinstance(schema.get("type"), str):
        schema["type"] = TYPES.get(schema["type"], schema["type"])
    for rule in vendor.get("validations", ()):
        schema[RULES[rule["validation_rule"]]] = rule["validation_value"]
    return schema


def _translated(value: Any) -> Any:
    if isinstance(value, dict):
        return json_schema(value)
    return [_translated(item) for item in value] if isinstance(value, list) else value


@cache
def _validator(api: str, model_id: str) -> Draft202012Validator:
    from jsonschema_rs import Draft202012Validator

    return Draft202012Validator(
        json_schema(catalogue(api)[model_id].input_schema),
        validate_formats=True,
        formats=dict.fromkeys(MEDIA_FORMATS, _is_fetchable),
    )


def _is_fetchable(uri: str) -> bool:
    return uri.startswith(MEDIA_SCHEMES)

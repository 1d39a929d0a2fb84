"""What a model takes and costs: the vendor's input schema as JSON Schema, types for text, the price."""

from batcher.schema.dialect import SchemaError, media_kind
from batcher.schema.price import Price, Quote
from batcher.schema.spec import BUILT_IN, KLING, ModelSpec

__all__ = ["BUILT_IN", "KLING", "ModelSpec", "Price", "Quote", "SchemaError", "media_kind"]

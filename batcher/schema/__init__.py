"""What a model takes and costs: the vendor's input schema as JSON Schema, types for text, the price."""

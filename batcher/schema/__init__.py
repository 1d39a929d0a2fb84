"""A model's inputs and price: the vendor's input schema as JSON Schema, types for text, the price."""

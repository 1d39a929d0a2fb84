"""The use cases: each command as one function that wires the rooms together."""

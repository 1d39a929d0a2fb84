"""The use cases: each command is one function that connects the packages."""

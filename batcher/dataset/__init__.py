"""A run directory as a dataset: rows, metadata, acceptance, exports."""

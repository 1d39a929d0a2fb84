"""What a run directory holds as a dataset: rows, metadata, acceptance, exports."""

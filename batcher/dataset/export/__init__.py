"""Exports of a run directory: WebDataset shards, Parquet, CSV."""

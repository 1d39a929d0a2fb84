"""The ledger: append-only JSONL files, the only state, and the fold that reads them."""

"""The ledger: append-only JSONL files, the only state there is, and their fold."""

"""Storage for outputs and state: a local run directory, or one with its outputs in a bucket."""

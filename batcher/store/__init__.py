"""Where outputs and state lie: a local run directory, or one with its outputs in a bucket."""

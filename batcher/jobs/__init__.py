"""The vocabulary: a job, its identity, its lifecycle, its share of a batch."""

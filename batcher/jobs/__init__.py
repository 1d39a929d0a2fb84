"""The basic types: a job, its identity, its lifecycle, its shard of a batch."""

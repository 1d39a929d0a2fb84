"""The names inside a run directory: all that lies there, in one place.

::

    RUN_DIR/
      ledger.jsonl          what happened; ledger.I-of-N.jsonl for shards
      metadata.jsonl        the dataset: a line for each file in media/
      media/                the outputs
      superseded/           outputs of attempts that were bought again
      README.md             the dataset's card
      report.html           the report
      marks.jsonl           what people think of the outputs
      .batcher/             ours: locks, partial downloads, and what can be made again
"""

from __future__ import annotations

LEDGER_NAME = "ledger.jsonl"
METADATA_NAME = "metadata.jsonl"
MEDIA_NAME = "media"
SUPERSEDED_NAME = "superseded"
CARD_NAME = "README.md"
REPORT_NAME = "report.html"
MARKS_NAME = "marks.jsonl"
HIDDEN_NAME = ".batcher"

# In .batcher/
LOCK_NAME = "lock"
START_NAME = "start"
CHECKPOINT_NAME = "checkpoint"
METADATA_CACHE_NAME = "metadata.json"
PARTIAL_NAME = "partial"
SPECS_NAME = "specs.json"
"""The catalogue's entries that the run went by."""
BUCKET_NAME = "bucket.json"
"""Which bucket has the outputs."""
SANDBOX_NAME = "sandbox.jsonl"
"""What the embedded sandbox made."""
AT_WORK_NAME = "at-work"
SETTLING_NAME = "settling"

HOLDER_KEY = f"{HIDDEN_NAME}/holder.json"
"""In the bucket: which state directory writes there."""

"""The names of all files inside a run directory, in one place.

::

    RUN_DIR/
      ledger.jsonl          what happened; ledger.I-of-N.jsonl for shards
      metadata.jsonl        the dataset: a line for each file in media/
      media/                the outputs
      superseded/           outputs of attempts that were bought again
      README.md             the dataset's card
      report.html           the report
      marks.jsonl           the user's marks on outputs
      .batcher/             internal: locks, partial downloads, caches
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
EXPORTED_NAME = ".export-folder.json"
"""Which files an export wrote, in their folder. Hidden, so that loaders of whole folders skip it."""

# In .batcher/
LOCK_NAME = "lock"
START_NAME = "start"
CHECKPOINT_NAME = "checkpoint"
METADATA_CACHE_NAME = "metadata.json"
PARTIAL_NAME = "partial"
SPECS_NAME = "specs.json"
"""The catalogue's entries that the run used."""
BUCKET_NAME = "bucket.json"
"""Which bucket has the outputs."""
SANDBOX_NAME = "sandbox.jsonl"
"""The state of the embedded sandbox."""
AT_WORK_NAME = "at-work"
SETTLING_NAME = "settling"

HOLDER_KEY = f"{HIDDEN_NAME}/holder.json"
"""In the bucket: the state directory that may write there."""

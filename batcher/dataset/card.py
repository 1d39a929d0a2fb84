"""The dataset card of a run directory: a ``README.md`` that loaders and the Hugging Face hub read.

It lists the files of the only split and declares the type of every column, so that loaders infer neither
splits from words in file names nor types from the first rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from batcher.dataset.metadata_rows import FLAG, INTEGER, NOTHING, NUMBER, OWN_COLUMNS, TEXT, TEXTS
from batcher.terminal import counted, legible

MARK = "written by batcher; without this line it is yours, and stays as it is"
_PATTERN = re.compile(r"\[[^/]+\]")
_DTYPES = {
    TEXT: {"dtype": "string"},
    INTEGER: {"dtype": "int64"},
    NUMBER: {"dtype": "float64"},
    FLAG: {"dtype": "bool"},
    TEXTS: {"list": "string"},
    NOTHING: {"dtype": "string"},
}
_MEDIA = {"image": "image", "video": "video", "audio": "audio"}


def path_warning(run_dir: Path) -> str | None:
    """A warning about loading a dataset from this path; None if there is no problem."""
    path = str(run_dir.resolve())
    if "::" in path:
        return f"{run_dir}: load_dataset can read no path with :: in it: choose another"
    if _PATTERN.search(path):
        return f"{run_dir}: load_dataset takes [ ] in a path for a pattern: data_dir=glob.escape(path)"
    return None


def is_ours(text: bytes) -> bool:
    """Whether a card was written by batcher, so that it may be overwritten."""
    return MARK.encode() in text


def card(name: str, columns: dict[str, str], kinds: Counter[str]) -> str:
    """The text of a card for a dataset that has rows.

    ``columns`` maps the names of inputs and metadata to types; ``kinds`` counts outputs by the first
    part of their media type. The column with the files is named after the most frequent kind.
    """
    features = list(_features(columns, _main_kind(kinds)))
    config = {
        "config_name": "default",
        "data_files": [{"split": "train", "path": ["metadata.jsonl", "media/**"]}],
        "features": features,
    }
    counts = ", ".join(
        counted(count, f"{kind} file", f"{kind} files") for kind, count in sorted(kinds.items())
    )
    return _TEXT.format(
        mark=MARK,
        config=_yaml(config),
        name=legible(name),
        counts=counts,
        columns="\n".join(f"- `{_code(feature['name'])}`: {_shown(feature)}" for feature in features),
    )


_TEXT = """---
# {mark}
configs:
- {config}
---

# {name}

{counts}. Load them from the directory that this file is in:

```python
from datasets import load_dataset

rows = load_dataset("path/to/this/directory", split="train")
```

## Columns

{columns}
"""


def _main_kind(kinds: Counter[str]) -> str | None:
    known = [(count, kind) for kind, count in kinds.items() if kind in _MEDIA]
    return max(known)[1] if known else None


def _features(columns: dict[str, str], kind: str | None) -> Iterable[dict[str, Any]]:
    for name, column_type in (OWN_COLUMNS | dict(sorted(columns.items()))).items():
        if name == "file_name" and kind is not None:
            yield {"name": kind, "dtype": _MEDIA[kind]}
        else:
            yield {"name": name, **_DTYPES[column_type]}


def _yaml(value: Any) -> str:
    """``value`` as JSON, which is valid YAML and quotes any column name."""
    return msgspec.json.encode(value).decode()


def _shown(feature: dict[str, Any]) -> str:
    return feature["dtype"] if "dtype" in feature else f"list of {feature['list']}"


def _code(name: str) -> str:
    return legible(name).replace("`", "'")

"""docs/options.md, made from the table: ``python -m batcher.options.page > docs/options.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from batcher.options.option import Group, Many, Option, Shapes
from batcher.options.table import TABLE

_HEAD = """\
# Options

Made from the table of options (`batcher/options/table.py`) by `python -m batcher.options.page`; a
test compares.

An option may be set in several places. The later wins:

1. `pyproject.toml` under `[tool.batcher]`, then `batcher.toml`, in the working directory
2. the same two beside the manifest
3. the environment: `BATCHER_MAX_COST=5`; several values of one option on separate lines
4. the manifest, under `run:` (only in the manifest named on the command line, not in included ones)
5. the command line, or the call from Python

In files and in Python `-` is `_` (files accept both). In files `set` and similar options are mappings,
and paths are relative to the file that contains them; `~` is the home directory. Mappings from several
places are merged; any other value is replaced. An unknown option, an invalid value, or an empty variable
is an error (exit code 64) that names its place. `batcher config MANIFEST` shows every value and where it
comes from.

```toml
# batcher.toml
max-cost = 50
concurrency = 16
[set]
duration = 10
```

Durations are seconds (fractions too) or `15m`, `2h`; sizes are bytes or `500MB`, `2GiB`; rates are
`5/s`, `30/m`. `--no-NAME` turns off a switch that a file turned on. Options marked *repeated* affect
jobs or money: the commands that `batcher` prints repeat them. Those marked *once* are permissions for
one run: a printed command to resume leaves them out.
"""
_MARKS = {Shapes.JOBS: "repeated", Shapes.MONEY: "repeated", Shapes.ONCE: "once", Shapes.TALK: ""}


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(line for group in Group for line in _section(group))])


def _section(group: Group) -> Iterator[str]:
    yield f"## {group.value}"
    yield ""
    yield "| option | default | what it does | |"
    yield "| --- | --- | --- | --- |"
    for option in TABLE:
        if option.group is group:
            yield _row(option)
    yield ""


def _row(option: Option) -> str:
    name = f"--{option.name} {option.kind.metavar}".rstrip()
    names = f"-{option.short}, {name}" if option.short else name
    marks = [_MARKS[option.shapes], "" if len(option.on.value) > 1 else f"`{option.on.value[0]}` only"]
    marks += [{Many.ONE: "", Many.LIST: "list", Many.MAP: "mapping"}[option.many]]
    default = f"`{option.default}`" if option.default else ""
    cells = (f"`{names}`", default, option.help, ", ".join(filter(None, marks)))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    sys.stdout.write(page())

"""``init`` and ``schema``: a commented starter manifest, and a manifest's JSON Schema for editors."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from batcher.cli.event_loop import run_loop
from batcher.cli.fields import FieldNote, field_notes, literal
from batcher.disk import cannot_write
from batcher.errors import UsageError
from batcher.options.command import as_path, command, quoted
from batcher.schema.spec import ModelSpec

STARTER = """\
# A batch for `batcher`. See what it would do:   batcher plan {name} --sandbox
# Try it without an account, at no cost:        batcher run {name} --sandbox
# Run it for real (needs RUNCOMFY_TOKEN):       batcher run {name}

name: {batch}  # names the run directory: {run_dir}, beside this file
model: kling/kling-2-1/master/image-to-video

defaults:                     # inputs of every job below, unless the job has its own
  duration: 5                 # seconds: 5 or 10
  aspect_ratio: "16:9"        # 16:9, 1:1 or 9:16

# matrix:                     # every combination, for every job below
#   cfg_scale: [0.3, 0.7]

jobs:
  - prompt: a paper boat drifts down a rainy street
    image_url: https://example.com/boat.png

  - id: hero                  # optional: names the output files
    prompt: "{{{{ animal }}}} runs through {{{{ place }}}}"
    image_url: https://example.com/field.png
    vars: {{place: tall grass}}
    matrix: {{animal: [a fox, a dog]}}   # one job for each
    meta: {{split: train}}     # kept with the results, never sent

# - from: pairs.csv           # rows of another file: columns prompt, image_url, ...
"""

_STARTER_MODEL = "kling/kling-2-1/master/image-to-video"
_HEAD = """\
# A batch for `batcher`. See what it would do and cost:   batcher plan {name}{flag}
# Run it:                                                 batcher run {name}{flag}
# The model:                                              batcher models show {model}{flag}

name: {batch}
model: {model}
"""


def write_starter(file: Path, model: str | None, *, sandbox: bool) -> int:
    """Write a starter manifest to ``file``: an example, or one with the fields of ``model``.

    Raises UsageError if the file exists already or has another suffix, InputError for an unknown
    model, UnreachableError if its schema is not available.
    """
    if file.suffix.lower() not in (".csv", ".yaml", ".yml"):
        raise UsageError(f"{file}: a manifest is read by its suffix: name it {file.stem}.yaml or .csv")
    if file.suffix.lower() == ".csv":
        text = _table(_spec(model or _STARTER_MODEL, sandbox=sandbox or model is None))
    elif model is None:
        name, run_dir = quoted(as_path(file)), quoted(f"output/{file.stem}")
        text = STARTER.format(name=name, batch=literal(file.stem), run_dir=run_dir)
    else:
        text = _for_model(model, file, sandbox=sandbox)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(f"{file} exists already; name another file") from None
    except OSError as error:
        raise cannot_write(file, error) from error
    flag = " --sandbox" if sandbox or model is None else ""
    if file.suffix.lower() == ".csv":
        flag = f" --model {model or _STARTER_MODEL}{flag}"
    click.echo(f"wrote {file}; next: {command('plan', as_path(file))}{flag}")
    return 0


def print_schema(model: str | None, *, sandbox: bool) -> int:
    """Print the JSON Schema of a manifest. Raises like :func:`write_starter`."""
    from batcher.manifest.editor_schema import manifest_schema

    schema = manifest_schema(_spec(model, sandbox=sandbox) if model is not None else None)
    click.echo(msgspec.json.format(msgspec.json.encode(schema)).decode())
    return 0


def _spec(model: str, *, sandbox: bool) -> ModelSpec:
    from batcher.cli.models_command import Asking, find_model, known_spec

    return known_spec(model, run_loop(find_model(model, Asking(sandbox))))[0]


def _for_model(model: str, file: Path, *, sandbox: bool) -> str:
    spec = _spec(model, sandbox=sandbox)
    flag = " --sandbox" if sandbox else ""
    head = _HEAD.format(batch=literal(file.stem), name=quoted(as_path(file)), model=model, flag=flag)
    return "\n".join([head, *_optional(spec), "", *_job(spec)]) + "\n"


def _table(spec: ModelSpec) -> str:
    """A table with the required inputs of a model, one sample row, and a column of metadata."""
    notes = [note for note in field_notes(spec) if note.required]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(note.name for note in notes), "meta.note"])
    samples = (note.sample for note in notes)
    cells = [one if isinstance(one, str) else msgspec.json.encode(one).decode() for one in samples]
    writer.writerow([*cells, "kept with the results, never sent"])
    return text.getvalue()


def _optional(spec: ModelSpec) -> Iterator[str]:
    """The optional inputs, as comments: removing the ``#`` sets them for every job."""
    yield "defaults:  # inputs of every job below, unless the job has its own"
    for note in field_notes(spec):
        if not note.required:
            yield f"  # {_assigned(note)}"


def _job(spec: ModelSpec) -> Iterator[str]:
    """One job with the required inputs."""
    yield "jobs:"
    required = [_assigned(note) for note in field_notes(spec) if note.required]
    first, *rest = required or ["{}"]
    yield f"  - {first}"
    yield from (f"    {line}" for line in rest)
    if required:
        yield "    # id: hero             # optional: names the output files"
        yield "    # meta: {split: train} # kept with the results, never sent"


def _assigned(note: FieldNote) -> str:
    about = f": {note.about}" if note.about else ""
    return f"{note.name}: {literal(note.sample)}  # {note.takes}{about}"

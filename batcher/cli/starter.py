"""``init``: a commented manifest to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from batcher.disk import cannot_write
from batcher.errors import UsageError

STARTER = """\
# A batch for `batcher`. See what it would do:   batcher plan {name} --sandbox
# Try it without an account, at no cost:        batcher run {name} --sandbox
# Run it for real (needs RUNCOMFY_TOKEN):       batcher run {name}

name: my-batch                # names the run directory, output/my-batch
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


def write_starter(file: Path) -> int:
    """Write the starter manifest to ``file``. Raises UsageError where there is one already."""
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(STARTER.format(name=file))
    except FileExistsError:
        raise UsageError(f"{file} exists already; name another file") from None
    except OSError as error:
        raise cannot_write(file, error) from error
    click.echo(f"wrote {file}; next: batcher run {file} --sandbox")
    return 0

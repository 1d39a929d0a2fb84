"""Run directories as a finished or half-finished batch leaves them, with real videos and pictures."""

import hashlib
import random

from batcher.clock import SystemClock
from batcher.dataset.acceptance import MediaInspector
from batcher.dataset.metadata import Metadata
from batcher.dataset.metadata_rows import ColumnTypes
from batcher.jobs.job import Artifact, output_name
from batcher.jobs.lifecycle import EventName, RunEvent
from batcher.ledger.ledger import Ledger
from batcher.sandbox.clips import draw_clip
from batcher.sandbox.pictures import draw_png
from batcher.store.local import RunDir
from tests.support.engine import QuickDisk, bought, job

SIDES = {"1:1": (256, 256), "16:9": (320, 180), "9:16": (180, 320)}


def clip(label, which=0):
    """A two-second MP4 of 320×180 that differs from others by ``label``."""
    return draw_clip(random.Random(which), (320, 180), 2.0, "", label)


def picture(label, aspect_ratio="1:1"):
    """A PNG: 256×256, or 320×180 for 16:9."""
    return draw_png(random.Random(label), SIDES[aspect_ratio], "", label)


class RunMaker:
    """Writes a run directory job by job, as the engine would."""

    def __init__(self, path):
        self.path = path
        self.disk = QuickDisk()
        self.run_dir = RunDir(path, self.disk)
        self.run_dir.prepare()
        self.ledger = Ledger(path, self.disk, SystemClock())

    def begin(self, total, manifest="manifest.yaml"):
        opening = RunEvent(
            run="r1", at="2026-01-01T00:00:00.000Z", manifest=manifest, total=total, api="sandbox"
        )
        self.ledger.announce(opening)
        return self

    async def done(self, one, *contents, extension=".mp4"):
        """Finish ``one`` with files of these contents."""
        self.submitted(one)
        self.ledger.append(EventName.COMPLETED, one.id, cost_usd=0.5)
        files = tuple(self._file(one.id, n, len(contents), c, extension) for n, c in enumerate(contents))
        await self._settle()
        found = await MediaInspector(self.path, self.ledger.snapshot).inspect(one.id, files)
        await self.ledger.record(EventName.DONE, one.id, files=found.files, quality=found.quality)
        return found.quality

    async def _settle(self):
        await self.ledger.settled()

    def submitted(self, one):
        for name, job_id, fields in bought(one, f"r-{one.id}"):
            self.ledger.append(name, job_id, **fields)

    def event(self, name, job_id, **fields):
        self.ledger.append(name, job_id, **fields)

    def _file(self, job_id, number, count, content, extension):
        name = f"media/{output_name(job_id, number, count, extension)}"
        (self.path / name).write_bytes(content)
        return Artifact(name, len(content), hashlib.sha256(content).hexdigest())

    async def end(self):
        metadata = Metadata(self.run_dir, self.ledger, self.disk)
        await self._settle()
        metadata.open(ColumnTypes())
        metadata.close()
        await self.ledger.close()
        return self.path


async def mixed_run(path):
    """Two videos, two pictures of one job, one failed, one unknown, one still running; odd texts."""
    made = RunMaker(path).begin(total=8)
    train, test = {"split": "train"}, {"split": "test"}
    await made.done(
        job("fox", prompt="a fox", model="acme/film", duration=2, cfg_scale=0.3, meta=train),
        clip("fox"),
    )
    await made.done(
        job(
            "v1.2",
            prompt="a <script>alert(1)</script> dog",
            model="acme/film",
            duration=2,
            cfg_scale=0.7,
            meta=test,
        ),
        clip("dog", 2),
    )
    await made.done(
        job("lake", prompt='=cmd|"/c calc"!A1', seed=7, meta=train),
        picture("a"),
        picture("b"),
        extension=".png",
    )
    await made.done(job("short", prompt="too short", model="acme/film", duration=10), clip("short", 3))
    made.submitted(job("lost", prompt="a failure"))
    made.event(
        EventName.FAILED,
        "lost",
        stage="generate",
        code="nsfw",
        message="refused </script><b>by</b> the model",
    )
    name, job_id, fields = bought(job("ghost", prompt="nobody knows"))[0]
    made.event(name, job_id, **fields)
    made.event(EventName.UNANSWERED, "ghost", code=502, message="bad gateway")
    made.submitted(job("going", prompt="still running"))
    return await made.end()

"""What is done to a run directory from outside, that a run has to notice before it sends or writes anything.

Afterwards all is put back as it was: what matters is that the promise holds until it is.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from batcher.errors import InputError
from batcher.jobs.lifecycle import Record, State
from batcher.layout import LEDGER_NAME, MEDIA_NAME, METADATA_NAME
from batcher.ledger.finished import JobRecord
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.snapshot import Snapshot
from batcher.options.facts import Policy
from batcher.planning.plan import decide

from .checks import ledger_of, lines_in
from .disk import SimDisk
from .process import ROOT, Process
from .scenario import RunSpec
from .server import Server
from .world import World

OTHER_API = "https://other.example"
COPY_INODE = 2
Rewrite = Callable[[bytes], bytes]
REWRITES: dict[str, Rewrite] = {
    "formatted": lambda old: "\n".join(json.dumps(one, indent=2) for one in lines_in(old)).encode(),
    "UTF-16": lambda old: old.decode("utf-8", "replace").encode("utf-16"),
    "packed": gzip.compress,
    "one array": lambda old: json.dumps(lines_in(old)).encode(),
    "a line removed": lambda old: b"".join(old.splitlines(keepends=True)[1:]),
    "sorted": lambda old: b"".join(sorted(old.splitlines(keepends=True), reverse=True)),
}


class Forbids:
    """Watches a run that may call nothing; see :class:`.server.Watch`."""

    def __init__(self, world: World, why: str) -> None:
        self._world, self._why = world, why

    def post_leaves(self, job_id: str) -> int:
        self._world.violate(f"{self._why}, and yet {job_id} was POSTed")
        return 0

    def call_leaves(self) -> None:
        self._world.violate(f"{self._why}, and yet the API was called")

    def poll_leaves(self, request_id: str) -> None:
        self._world.violate(f"{self._why}, and yet {request_id} was polled")

    def created(self) -> None:
        pass


@dataclass
class Mischief:
    """One seed's meddling. ``olds`` are the ledgers as earlier runs left them, by segment."""

    world: World
    disk: SimDisk
    server: Server
    rng: Random

    def __post_init__(self) -> None:
        self.olds: list[dict[str, bytes]] = []

    def keep(self) -> None:
        """Remember the ledger as it is now."""
        now = ledger_of(self.disk)
        if not self.olds or self.olds[-1] != now:
            self.olds.append(now)

    def try_one(self, spec: RunSpec) -> None:
        """Do something to the directory, if there is anything to notice, and see that a run refuses it."""
        snapshot = read_snapshot(ROOT, self.disk) if ledger_of(self.disk) else Snapshot()
        if not any(record.request_id is not None for record in snapshot.records.values()):
            return
        kept = self.disk.names, self.disk.durable_names, self.disk.was
        self.disk.names, self.disk.durable_names = dict(kept[0]), dict(kept[1])
        try:
            match self.rng.choice(["api", "copy", "older", "older", "older", "rewritten"]):
                case "api":
                    self._refused(replace(spec, api=OTHER_API), "its requests are another API's")
                case "copy" if _buys(spec, snapshot):
                    self.disk.inode = COPY_INODE
                    self._refused(replace(spec, assume_yes=False), "the directory is a copy")
                case "older":
                    self._put_back(spec, snapshot)
                case "rewritten":
                    self._rewrite(spec)
        finally:
            self.disk.inode = 1
            self.disk.names, self.disk.durable_names, self.disk.was = kept

    def _put_back(self, spec: RunSpec, snapshot: Snapshot) -> None:
        """An older ledger, while the outputs know better; sometimes only they do."""
        there = {f"{MEDIA_NAME}/{name}" for name in self.disk.list_dir(ROOT / MEDIA_NAME)}
        bought = {
            job_id
            for job_id, record in snapshot.items()
            if record.state is State.DONE and there.intersection(file.path for file in record.files)
        }
        for old in self.rng.sample(self.olds, len(self.olds)):
            if not all(old.values()):
                continue
            self._replace_ledger(old)
            try:
                before = read_snapshot(ROOT, self.disk) if old else Snapshot()
            except InputError:  # a torn first line: refused as it is
                continue
            if any(job.id in bought and _is_new(before.get(job.id)) for job in spec.jobs):
                if self.rng.random() < 0.7:
                    self.disk.replace(ROOT / METADATA_NAME, None)
                self._refused(spec, "an older ledger was put back")
                return

    def _rewrite(self, spec: RunSpec) -> None:
        segments = {n: old for n, old in ledger_of(self.disk).items() if b'"submitted"' in old}
        if not segments:
            return
        name = self.rng.choice(sorted(segments))
        how = self.rng.choice(sorted(REWRITES))
        self.disk.replace(ROOT / name, REWRITES[how](segments[name]))
        self._refused(spec, f"{name} was rewritten ({how})")

    def _replace_ledger(self, old: dict[str, bytes]) -> None:
        for name in ledger_of(self.disk):
            self.disk.replace(ROOT / name, None)
        for name, content in old.items():
            self.disk.replace(ROOT / name, content)

    def _refused(self, spec: RunSpec, why: str) -> None:
        """A run with ``spec`` ends with a message, sends nothing and changes no byte."""
        self.world.note(f"--- {why}")
        self.world.seen[
            f"refused: {why.split(' (', maxsplit=1)[0].replace(LEDGER_NAME, 'the ledger')}"
        ] += 1
        before = self._bytes()
        process = Process(self.world, self.disk, self.server, spec)
        process.watch = Forbids(self.world, why)
        self.world.live(process.main(), None)
        self.world.dead = False
        if process.conflict is None and not isinstance(process.error, InputError):
            self.world.violate(f"{why}, and the run ended {process.error or 'well'}")
        elif self._bytes() != before:
            self.world.violate(f"{why}, and the run changed files")

    def _bytes(self) -> dict[str, bytes]:
        return {str(path): bytes(inode.data) for path, inode in self.disk.names.items()}


def _buys(spec: RunSpec, snapshot: Snapshot) -> bool:
    return any(decide(job, snapshot.get(job.id), Policy()).buys for job in spec.jobs)


def _is_new(record: JobRecord | None) -> bool:
    """Whether by its ledger a job can have no outputs, and would be bought."""
    if record is None:
        return True
    first = record.attempt <= 1 and record.replaced is None
    return isinstance(record, Record) and record.state is State.PENDING and first

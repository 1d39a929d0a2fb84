"""One seed, from its first run to the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from unittest.mock import patch

import batcher.ledger.checkpoint
import batcher.ledger.snapshot
from batcher.errors import BatcherError
from batcher.jobs.lifecycle import Event, EventName, State
from batcher.layout import MEDIA_NAME
from batcher.ledger.finished import JobRecord
from batcher.ledger.ledger import read_ledger
from batcher.ledger.lines import LineReader
from batcher.ledger.snapshot import Snapshot

from .by_hand import ByHand
from .checks import Checks, ledger_of
from .disk import SimDisk
from .ends import check_all_done, check_end
from .mischief import Mischief
from .process import ROOT, Process
from .scenario import RunSpec, Scenario
from .server import Server
from .world import World

CALM_RUNS_MAX = 12
TIME_TO_LIST_S = 120.0
"""After that a provider that lists requests has listed all of them."""
RESERVE_ROOM_BYTES = 256 * 1024
KEPT_OPEN = 1
MISCHIEF_SHARE = 0.3
BY_HAND_SHARE = 0.15
Move = tuple[State, EventName]


class Moves(Snapshot):
    """A snapshot that counts the transitions which led to it."""

    may_restore = False

    def __init__(self) -> None:
        super().__init__()
        self.moves: Counter[Move] = Counter()

    def apply(self, event: Event, place: int = -1) -> JobRecord:
        known = self.get(event.job)
        if event.event not in (EventName.ORPHANED, EventName.RELISTED):
            self.moves[known.state if known is not None else State.PENDING, event.event] += 1
        return super().apply(event, place)


@dataclass
class Verdict:
    """What became of one seed."""

    seed: int
    broken: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    moves: Counter[Move] = field(default_factory=Counter)


def simulate(seed: int) -> Verdict:
    """Live through ``seed``; stops at the first run that breaks an invariant."""
    story = Story(seed)
    try:
        with (
            patch.object(
                batcher.ledger.snapshot, "KEPT_OPEN", KEPT_OPEN
            ),  # few jobs, and some of them packed
            patch.object(batcher.ledger.checkpoint, "CHECKPOINT_STEP_BYTES", 1),
        ):
            story.tell()
    except Exception as error:  # a bug of the engine that is no BatcherError
        story.world.violate(f"raised {error!r}")
    finally:
        story.world.close()
    seen, moves = story.world.seen, Counter[Move]()
    try:
        moves = story.moves()
    except BatcherError as error:  # a ledger that can't be read
        story.world.violate(f"at the end: {error}")
    return Verdict(seed, story.world.broken, story.world.trace, seen, moves)


class Story:
    """The world of a seed and the runs in it."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.disk = SimDisk(self.world)
        self.server = Server(self.world)
        self.scenario = Scenario(self.world.rng("scenario"))
        self._chance: Random = self.world.rng("story")
        self._mischief = Mischief(self.world, self.disk, self.server, self.world.rng("mischief"))
        self._number = 0
        self._lines: list[bytes] = []

    def tell(self) -> None:
        """Troubled runs, calm runs until nothing changes, and perhaps the same with every retry."""
        for _ in range(self.scenario.runs):
            self._number += 1
            self._meddle()
            self._by_hand()
            self._run(self.scenario.draw(self._number))
            if self.world.broken:
                return
        self._calm(retry=False)
        if not self.world.broken and self._chance.random() < 0.5:
            self._calm(retry=True)

    def moves(self) -> Counter[Move]:
        """The transitions on record, torn-off lines aside."""
        lines = LineReader(ROOT, self.disk)
        return read_ledger(Moves(), ROOT, lines, self.disk).moves if ledger_of(self.disk) else Counter()

    def _calm(self, *, retry: bool) -> None:
        self.world.pass_time(TIME_TO_LIST_S)
        for _ in range(CALM_RUNS_MAX):
            self._number += 1
            before = ledger_of(self.disk)
            process = self._run(self.scenario.calm(self._number, retry=retry))
            if self.world.broken:
                return
            if ledger_of(self.disk) == before and process.conflict is None:
                check_end(process)
                if retry:
                    check_all_done(process)
                return
        self.world.violate(f"calm runs go on and on: {CALM_RUNS_MAX} of them changed something")

    def _run(self, spec: RunSpec) -> Process:
        world, disk = self.world, self.disk
        world.note(f"--- run {spec.number}: {_told(spec)}")
        self._prepare(spec)
        process = Process(world, disk, self.server, spec)
        self._live(process)
        self._mischief.keep()
        for name in _edited(process):
            self.scenario.revert(name)
            world.seen["conflicts"] += 1
        return process

    def _live(self, process: Process) -> None:
        """Let a process live until it ends or dies, and look at what it leaves."""
        world, disk, spec = self.world, self.disk, process.spec
        checks = Checks(process)
        process.watch = checks
        checks.before()
        died = world.live(process.main(), spec.crash_at)
        world.note("died" if died else f"ended: {process.error or 'well'}")
        world.seen["runs"] += 1
        self.server.client_died()
        if died:
            world.seen["crashes"] += 1
            disk.crash()
        world.dead = False
        checks.after(died)

    def _meddle(self) -> None:
        """Perhaps somebody does something to the directory between two runs."""
        if self._chance.random() < MISCHIEF_SHARE:
            self._prepare(calm := RunSpec(self._number, self.scenario.jobs()))
            self._mischief.try_one(calm)

    def _by_hand(self) -> None:
        """Perhaps the user cancels what is queued, or settles what is unknown."""
        if self._chance.random() >= BY_HAND_SHARE or not any(ledger_of(self.disk).values()):
            return
        self._number += 1
        crash_at = self._chance.randint(1, 40) if self._chance.random() < 0.3 else None
        process = ByHand(
            self.world,
            self.disk,
            self.server,
            RunSpec(self._number, self.scenario.jobs(), crash_at=crash_at),
        )
        process.rng = self.world.rng(f"by hand {self._number}")
        self._live(process)

    def _prepare(self, spec: RunSpec) -> None:
        disk, server, now_s = self.disk, self.server, self.world.now_s()
        disk.errors = 0
        disk.fsyncs_until_error = spec.fsyncs_until_error
        disk.room_bytes = None
        if spec.room_bytes is not None:
            reserve = 0 if disk.size(ROOT / ".batcher" / "reserve") else RESERVE_ROOM_BYTES
            disk.room_bytes = disk.used() + reserve + spec.room_bytes
        server.climate = spec.climate
        server.balance_usd = spec.balance_usd
        server.token_dies_s = now_s + spec.token_dies_s
        if spec.tampers:
            self._tamper()

    def _tamper(self) -> None:
        media = self.disk.list_dir(ROOT / MEDIA_NAME)
        if media:
            name = self._chance.choice(media)
            self.world.note(f"the user damages {name}")
            self.world.seen["files damaged"] += 1
            self.disk.tamper(ROOT / MEDIA_NAME / name, self._chance)


def _edited(process: Process) -> Iterator[str]:
    """Jobs whose edit the plan refused."""
    for problem in process.conflict.problems if process.conflict is not None else ():
        yield problem.split("inputs of '")[1].split("'")[0]


def _told(spec: RunSpec) -> str:
    return (
        f"{len(spec.jobs)} jobs, {spec.policy}, {spec.climate}, crash at {spec.crash_at}, {spec.signals}"
    )

"""What is drawn from a seed: jobs, and for each run its options and its troubles."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from batcher.jobs.identity import input_digest
from batcher.jobs.job import Job, Source
from batcher.jobs.shard import Shard
from batcher.options.facts import Outage, Pace, Policy, Selection

from .server import PRICE_USD, Climate

MODEL = "vendor/model/text-to-video"
DAY_S = 86_400.0
TWINS = ["1", "1.0", "1.1", "1.0.0", "1.2", "a", "a.0", "a-train", "1.0.1"]
"""Ids whose outputs could get one name."""
HOME_API = "https://api.example"
DISASTERS = [*["crash"] * 6, "signal", "signal", "full", "broken disk", "poor", "token", "tamper"]
CALM_PACE = Pace(job_timeout_s=DAY_S)


def make_job(name: str, version: int, *, explicit: bool) -> Job:
    """A job; another ``version`` of an explicit one is the same job with edited inputs."""
    inputs = {"prompt": f"{name}, take {version}", "seed": version}
    digest = input_digest(MODEL, inputs)
    return Job(
        id=name,
        model=MODEL,
        input=inputs,
        meta={"split": "train"} if version % 2 else {},
        source=Source("jobs.yaml", 1),
        digest=digest,
        explicit=explicit,
    )


@dataclass(frozen=True)
class RunSpec:
    """One run: what the user asks for, and what happens to it.

    ``crash_at`` counts steps; ``signals`` are (seconds from the start, what comes); ``room_bytes`` is
    what the disk has left beside the reserve; times are seconds from the start of the run.
    """

    number: int
    jobs: tuple[Job, ...]
    selection: Selection = field(default_factory=Selection)
    policy: Policy = field(default_factory=Policy)
    pace: Pace = CALM_PACE
    max_cost_usd: float | None = None
    max_failures: float | None = None
    climate: Climate = field(default_factory=Climate)
    crash_at: int | None = None
    signals: tuple[tuple[float, str], ...] = ()
    room_bytes: int | None = None
    fsyncs_until_error: int | None = None
    balance_usd: float = 1e9
    token_dies_s: float = float("inf")
    tampers: bool = False
    canary: int | None = None
    assume_yes: bool = True
    api: str = HOME_API
    edited: tuple[Job, ...] = ()
    """The manifest as it is once the plan was made, if somebody edits it then."""

    @property
    def calm(self) -> bool:
        """Whether nothing at all goes wrong in it."""
        return self.climate == Climate() and self.crash_at is None and not self.signals


class Scenario:
    """The runs of one seed, drawn one after the other: the next depends on nothing but the seed."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._versions: dict[str, int] = {}
        plain = [f"job-{n}" for n in range(1, 30)]
        self._names = TWINS + plain if rng.random() < 0.3 else plain
        self._explicit = {name: name in TWINS or rng.random() < 0.6 for name in self._names}
        self._made = 0
        self._trouble = rng.choice([0.0, 0.05, 0.15, 0.3, 0.6])
        self.names: list[str] = []
        self.runs = rng.choice([1, 2, 3, 3, 4, 5, 7])
        for _ in range(rng.choice([1, 1, 2, 2, 3, 4, 5, 6, 8, 12])):
            self._add()

    def jobs(self) -> tuple[Job, ...]:
        """The manifest as it is now."""
        return tuple(
            make_job(name, self._versions[name], explicit=self._explicit[name]) for name in self.names
        )

    def draw(self, number: int) -> RunSpec:
        """Run ``number`` with all its troubles."""
        rng = self._rng
        if number > 1:
            self._edit()
        spec = RunSpec(
            number=number,
            jobs=self.jobs(),
            selection=self._selection(),
            policy=self._policy(),
            pace=self._pace(),
            max_cost_usd=rng.randint(1, 10) * PRICE_USD if rng.random() < 0.25 else None,
            max_failures=rng.choice([0, 1, 3]) if rng.random() < 0.1 else None,
            climate=self._climate(),
            canary=rng.choice([1, 2]) if rng.random() < 0.15 else None,
            edited=self._edited_meanwhile(),
        )
        return self._with_disasters(spec)

    def calm(self, number: int, *, retry: bool = False) -> RunSpec:
        """A run in which all goes well."""
        policy = Policy(retry_failed=retry, retry_unknown=retry, max_attempts=20)
        concurrency = self._rng.choice([1, 3, 8])
        pace = replace(CALM_PACE, concurrency=concurrency)
        return RunSpec(number=number, jobs=self.jobs(), policy=policy, pace=pace)

    def revert(self, name: str) -> None:
        """The user takes an edit back."""
        self._versions[name] -= 1

    def version(self, name: str) -> int:
        return self._versions[name]

    def _add(self) -> None:
        self._made += 1
        name = self._names[self._made - 1]
        self._versions.setdefault(name, 1)
        self.names.append(name)

    def _edit(self) -> None:
        rng = self._rng
        gone = [name for name in self._versions if name not in self.names]
        match rng.choice(["", "", "", "", "add", "remove", "reorder", "edit", "edit", "bring back"]):
            case "add" if self._made < 20:
                self._add()
            case "remove" if len(self.names) > 1:
                self.names.remove(rng.choice(self.names))
            case "reorder":
                rng.shuffle(self.names)
            case "edit":
                name = rng.choice(self.names)
                self._versions[name] += self._explicit[name]
            case "bring back" if gone:
                self.names.append(rng.choice(gone))

    def _edited_meanwhile(self) -> tuple[Job, ...]:
        """What somebody makes of the manifest once its plan is made; mostly nothing."""
        rng = self._rng
        if rng.random() >= 0.15:
            return ()
        jobs = [job for job in self.jobs() if rng.random() < 0.8]
        jobs = [make_job(j.id, 99, explicit=True) if rng.random() < 0.2 else j for j in jobs]
        jobs += [make_job(f"late-{n}", 1, explicit=True) for n in range(rng.randint(1, 3))]
        rng.shuffle(jobs)
        return tuple(jobs)

    def _selection(self) -> Selection:
        rng = self._rng
        match rng.choice(["", "", "", "", "", "limit", "only", "shard"]):
            case "limit":
                return Selection(limit=rng.randint(1, 6))
            case "only":
                names = rng.sample(self.names, rng.randint(1, len(self.names)))
                return Selection(only=frozenset(names))
            case "shard":
                count = rng.randint(2, 3)
                return Selection(shard=Shard(count, rng.randint(1, count)))
        return Selection()

    def _policy(self) -> Policy:
        rng = self._rng
        return Policy(
            retry_failed=rng.random() < 0.35,
            retry_unknown=rng.random() < 0.25,
            redo=rng.random() < 0.15,
            max_attempts=rng.choice([1, 2, 3, 3, 9]),
            retry_refused=rng.random() < 0.2,
            retries=rng.choice([0, 0, 0, 1, 2]),
        )

    def _pace(self) -> Pace:
        rng = self._rng
        return Pace(
            concurrency=rng.choice([1, 2, 3, 8]),
            downloads=rng.choice([1, 8]),
            rate_per_s=rng.choice([None, None, None, 0.2, 5.0]),
            poll_interval_s=rng.choice([None, None, None, 2.0, 20.0]),
            job_timeout_s=rng.choice([None, 7200.0, 7200.0, 100.0]),
            outage=rng.choice([Outage(), Outage(), Outage.of(30.0)]),
            grace_s=rng.choice([5.0, 5.0, 1.0, 30.0]),
            cancel_on_interrupt=rng.random() < 0.5,
        )

    def _climate(self) -> Climate:
        rng = self._rng

        def often() -> float:
            return self._trouble if rng.random() < 0.6 else 0.0

        return Climate(often(), often() * 0.6, often(), 0.05 * (rng.random() < 0.5), often() * 0.8)

    def _with_disasters(self, spec: RunSpec) -> RunSpec:
        """Usually one, sometimes more, sometimes none."""
        rng = self._rng
        for _ in range(rng.choice([0, 1, 1, 2, 2])):
            match rng.choice(DISASTERS):
                case "crash":
                    spec = replace(spec, crash_at=int(2.0 ** rng.uniform(0.0, 8.5)))
                case "signal":
                    spec = replace(spec, signals=self._signals())
                case "full":
                    spec = replace(spec, room_bytes=rng.randint(0, 4000))
                case "broken disk":
                    spec = replace(spec, fsyncs_until_error=rng.randint(0, 60))
                case "poor":
                    spec = replace(spec, balance_usd=rng.randint(0, 4) * PRICE_USD)
                case "token":
                    spec = replace(spec, token_dies_s=rng.uniform(0.0, 60.0))
                case "tamper":
                    spec = replace(spec, tampers=True)
        return spec

    def _signals(self) -> tuple[tuple[float, str], ...]:
        rng = self._rng
        first_s = rng.uniform(0.0, rng.choice([0.7, 10.0, 100.0]))
        match rng.choice(["drain", "halt", "halt", "abort", "twice"]):
            case "twice":
                return (first_s, "halt"), (first_s + rng.uniform(0.0, 3.0), "abort")
            case kind:
                return ((first_s, kind),)

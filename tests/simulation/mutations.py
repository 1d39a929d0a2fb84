"""Proof that the simulation would notice: the engine is broken on purpose, and seeds run until one finds it.

::

    python -m tests.simulation.mutations            all of them
    python -m tests.simulation.mutations "no fsync" the ones whose name contains this

Each mutation is made in a copy of the package, and simulated there in a process of its own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SEEDS_MAX = 5000
TIMEOUT_S = 300


@dataclass(frozen=True)
class Mutation:
    """One deliberate bug: in ``file`` of the package, ``old`` (which stands there once) becomes ``new``."""

    name: str
    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Found:
    """The first seed that noticed, and what it said; ``seed`` None: none did."""

    seed: int | None
    words: str


MUTATIONS = (
    Mutation(
        "POST before its intent is on disk",
        "engine/submit.py",
        "        await intended\n",
        "",
    ),
    Mutation(
        "no fsync of the ledger",
        "ledger/commit.py",
        "            self._write_whole(data, start)\n        self._file.sync()\n",
        "            self._write_whole(data, start)\n",
    ),
    Mutation(
        "an ambiguous POST is tried again",
        "errors.py",
        "    kind = RetryKind.AMBIGUOUS\n",
        "    kind = RetryKind.TRANSIENT\n",
    ),
    Mutation(
        "polled before the request id is on disk",
        "engine/submit.py",
        "            await self._ledger.record(\n                EventName.SUBMITTED, job.id, request_id=request.id",
        "            self._ledger.append(\n                EventName.SUBMITTED, job.id, request_id=request.id",
    ),
    Mutation(
        "Retry-After is ignored",
        "pacing/gate.py",
        "        pause_s = retry_after_s\n",
        "        pause_s = None\n",
    ),
    Mutation(
        "a call past the gate does not look at it again",
        "engine/submit.py",
        "if self._control.halted or not line.is_open:",
        "if self._control.halted:",
    ),
    Mutation(
        "the slot is free once the POST is answered",
        "engine/runner.py",
        "        self.view.queued += 1\n",
        "        self.view.queued += 1\n        self._lanes.slots.free()\n",
    ),
    Mutation(
        "one request more than the cap",
        "engine/slots.py",
        "        while self.held >= self.limit or",
        "        while self.held > self.limit or",
    ),
    Mutation(
        "done before the names are durable",
        "engine/fetch.py",
        "        await self._run_dir.settle()\n",
        "",
    ),
    Mutation(
        "the ledger's own name is not durable",
        "ledger/ledger.py",
        "            self._disk.sync_dir(self.path.parent)\n",
        "",
    ),
    Mutation(
        "a torn tail stays",
        "ledger/torn_tail.py",
        "        file.truncate(tail.good_bytes)\n",
        "",
    ),
    Mutation(
        "bought again without asking for the old result",
        "planning/plan.py",
        '        return Decision(PlanGroup.RETRY, Action.ASK, f"asked once more, then bought again: {why}")\n',
        "        return Decision(PlanGroup.RETRY, Action.SUBMIT, why)\n",
    ),
    Mutation(
        "unknown attempts do not count towards --max-cost",
        "ledger/snapshot.py",
        "        record.message = event.message\n\n    def _submitted",
        "        record.message = event.message\n        self._charge(event.job, record, 0.0)\n\n    def _submitted",
    ),
    Mutation(
        "the files of an attempt bought again are left to be written over",
        "engine/runner.py",
        "            await self._deps.run_dir.set_aside(record.replaced)\n",
        "            pass\n",
    ),
    Mutation(
        "a checkpoint forgets what was spent",
        "ledger/snapshot.py",
        "            setattr(self, name, getattr(saved.sums, name))\n",
        "            setattr(self, name, 0)\n",
    ),
    Mutation(
        "a run of another division does not say what it came after",
        "ledger/ledger.py",
        "            self._after[name] = tails[name].good_bytes\n",
        "",
    ),
    Mutation(
        "metadata vouched for without a look at the ledger",
        "dataset/metadata.py",
        "                    self._stale |= self._changes != self._ledger.snapshot.dataset_changes\n",
        "",
    ),
    Mutation(
        "a cost above the price is not expected of the next job",
        "engine/budget.py",
        "        return self._snapshot.costs.expected_usd(priced_as, job.model, price_usd)\n",
        "        return price_usd\n",
    ),
    Mutation(
        "a late cost is not asked for",
        "engine/poll.py",
        "            await self._ask_each([job for job, (_, at_s) in self._due.items() if at_s <= now_s])\n",
        "            pass\n",
    ),
    Mutation(
        "rows that came after the plan are bought",
        "manifest/id_table.py",
        "            if key in left:\n",
        "            if True:\n",
    ),
    Mutation(
        "an id that ends like the number of an output gets plain names",
        "jobs/job.py",
        "    is_plain = count == 1 and not _NUMBERED.fullmatch(job_id)\n",
        "    is_plain = count == 1\n",
    ),
    Mutation(
        "a file of another job is replaced",
        "engine/fetch.py",
        "        while any(self._is_anothers(there, job_id) for there in self._run_dir.namesakes(name)):\n",
        "        while False:\n",
    ),
    Mutation(
        "the canary is not waited for",
        "engine/canary.py",
        "            if self._open:\n                await self._settled.wait()\n",
        "",
    ),
    Mutation(
        "resolve takes an id that is known already",
        "app/resolve.py",
        "        _check_new(run_dir, request_id, host.disk)\n",
        "",
    ),
    Mutation(
        "cancel records what runs on as cancelled",
        "app/resolve.py",
        "    if outcome is CancelOutcome.CANCELLED:\n",
        "    if True:\n",
    ),
    Mutation(
        "another API is not noticed",
        "app/connect.py",
        '        if first is None or first.rstrip("/") == site.api.rstrip("/"):\n',
        "        if True:\n",
    ),
    Mutation(
        "a copied run directory is not noticed",
        "app/run_dir_checks.py",
        "    if there is None or there[1] == last.inode:\n",
        "    if True:\n",
    ),
    Mutation(
        "outputs that an older ledger can't explain are not looked for",
        "app/run_dir_checks.py",
        "    if prepared.plan.to_buy and (outputs := await unexplained(store, snapshot)):\n",
        "    if False and (outputs := await unexplained(store, snapshot)):\n",
    ),
    Mutation(
        "whatever can't be read is a torn tail",
        "ledger/torn_tail.py",
        "    return _was_cut(raw) or _is_unwritten(raw)\n",
        "    return True\n",
    ),
    Mutation(
        "a late cost is believed whatever became of its job meanwhile",
        "engine/poll.py",
        "        if record.request_id != request.id or not self._is_missing(job_id):\n",
        "        if False:\n",
    ),
    Mutation(
        "more retries than --retries",
        "planning/plan.py",
        "    left = record.attempt < policy.max_attempts and record.retry < policy.retries\n",
        "    left = record.attempt < policy.max_attempts\n",
    ),
    Mutation(
        "a retry that does not wait for the canary",
        "engine/retries.py",
        "        await self._canary.holds_retry(job_id)\n",
        "",
    ),
    Mutation(
        "a retry without asking for the old result",
        "engine/runner.py",
        "result = await self._generate(job, ask_first=True)",
        "result = await self._generate(job, ask_first=False)",
    ),
)


def hunt(mutation: Mutation, seeds: int = SEEDS_MAX) -> Found:
    """Run seeds, from 0 on, against the mutated engine until one breaks an invariant."""
    with tempfile.TemporaryDirectory(prefix="batcher-mutation-") as folder:
        copy = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / "batcher", copy / "batcher", ignore=ignored)
        shutil.copytree(Path(__file__).parent, copy / "tests" / "simulation", ignore=ignored)
        _mutate(copy / "batcher" / mutation.file, mutation)
        return _found(_simulate(copy, seeds))


def _mutate(path: Path, mutation: Mutation) -> None:
    source = path.read_text()
    count = source.count(mutation.old)
    if count != 1:
        raise ValueError(f"{mutation.name}: {mutation.file} holds the place {count} times, not once")
    path.write_text(source.replace(mutation.old, mutation.new))


def _simulate(folder: Path, seeds: int) -> str:
    arguments = ["-m", "tests.simulation", "--seeds", str(seeds), "--workers", "1", "--stop-at-first"]
    ran = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    return ran.stdout + ran.stderr


def _found(output: str) -> Found:
    failed = re.search(r"^FAILED (.*)\n.*--seed (\d+)$", output, re.MULTILINE)
    if failed is not None:
        return Found(int(failed[2]), failed[1])
    last = output.strip().splitlines()[-1] if output.strip() else "no output"
    return Found(None, last)


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    missed = 0
    for mutation in MUTATIONS:
        if wanted in mutation.name:
            began_s = time.monotonic()
            found = hunt(mutation)
            missed += found.seed is None
            took_s = time.monotonic() - began_s
            print(
                f"{mutation.name:66} seed {found.seed!s:>5} {took_s:5.1f} s  {found.words[:100]}",
                flush=True,
            )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

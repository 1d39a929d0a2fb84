"""Polling: calls a job against staleness, for a fixed interval, growing steps, and the learned schedule.

A simulation in virtual time, the same durations for each schedule. Its fixed intervals and its learned
schedule are then compared with the engine itself, run in virtual time too. Draws the curves as
docs/images/polling.svg.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from curves import Curve, Panel, draw
from simulated_polls import (
    Cost,
    Duration,
    World,
    changing,
    fixed_with,
    growing,
    lognormal,
    true_curve,
    two_kinds,
)

from batcher.pacing.inspection import inspect
from batcher.pacing.polling import LearnedPolls

ROOT = Path(__file__).resolve().parents[1]
X_MOST = 18.0
PLOT = ROOT / "docs" / "images" / "polling.svg"
SEEDS = (1, 2, 3)
LOGNORMAL = [(60.0, 0.1), (60.0, 0.3), (60.0, 0.6), (2.0, 0.5)]
OTHERS: dict[str, Duration] = {
    "sigma 1.0": lognormal(60, 1.0),
    "memoryless (exponential)": lambda rng, number: rng.expovariate(1 / 60),
    "two kinds, 10 s and 120 s": two_kinds(lognormal(10, 0.1), lognormal(120, 0.1)),
    "queues grow, 60 to 240 s": growing(60, 0.1, 4, 1500),
    "a jump, 60 to 150 s": changing(lognormal(60, 0.1), lognormal(150, 0.1), 700),
    "a jump, 150 to 40 s": changing(lognormal(150, 0.1), lognormal(40, 0.1), 700),
    "always 60 s": lambda rng, number: 60.0,
}


def mean(costs: list[Cost]) -> Cost:
    count = len(costs)
    return Cost(sum(c.calls for c in costs) / count, sum(c.staleness_s for c in costs) / count)


def over_seeds(takes: Duration, run: Callable[[World], Cost], **world: int) -> Cost:
    return mean([run(World(takes, seed=seed, **world)) for seed in SEEDS])


def same_calls(takes: Duration, calls: float, longest_s: float) -> Cost:
    return mean([fixed_with(partial(World, takes, seed=seed), calls, longest_s) for seed in SEEDS])


def thrifty(calls: float) -> type[LearnedPolls]:
    """The learned schedule with another number of calls to spend."""
    return type("Thrifty", (LearnedPolls,), {"calls_for": staticmethod(lambda typical_s: calls)})


def lognormal_table() -> None:
    print(
        "median  sigma | learned: calls, stale        | fixed, same calls | growing steps  | best possible"
    )
    for median_s, sigma in LOGNORMAL:
        takes = lognormal(median_s, sigma)
        ours = over_seeds(takes, World.learned)
        fixed = same_calls(takes, ours.calls, median_s * 3)
        steps = over_seeds(takes, World.untaught)
        best = inspect(true_curve(median_s, sigma), ours.calls)
        best_s = best.staleness_s * (best.calls - 0.5) / (ours.calls - 0.5)
        print(
            f"{median_s:4.0f} s   {sigma:5.1f} | {ours.calls:5.2f}  {ours.staleness_s:6.3f} s = "
            f"{100 * ours.staleness_s / median_s:4.1f} % | {fixed.staleness_s:6.3f} s"
            f" (x{ours.staleness_s / fixed.staleness_s:4.2f}) | {steps.calls:5.2f}  {steps.staleness_s:5.2f} s"
            f" | {best_s:6.3f} s"
        )


def other_table() -> None:
    print("\nother distributions        | learned: calls, stale | fixed, same calls")
    for name, takes in OTHERS.items():
        ours = over_seeds(takes, World.learned)
        fixed = same_calls(takes, ours.calls, 400.0)
        share = ours.staleness_s / fixed.staleness_s
        print(
            f"{name:26s} | {ours.calls:5.2f}    {ours.staleness_s:6.3f} s  |"
            f" {fixed.staleness_s:6.3f} s (x{share:4.2f})"
        )


def plot() -> None:
    panels = []
    for median_s, sigma in LOGNORMAL:
        takes = lognormal(median_s, sigma)
        fixed = [
            World(takes).fixed(median_s * part)
            for part in (0.08, 0.1, 0.13, 0.17, 0.22, 0.3, 0.4, 0.6, 0.9)
        ]
        ours = [
            World(takes).learned(thrifty(calls)) for calls in (1.7, 2.1, 2.6, 3.3, 4.2, 5.3, 6.6, 8.0)
        ]
        best = [
            inspect(true_curve(median_s, sigma, 300), calls)
            for calls in (1.7, 2.1, 2.6, 3.3, 4.2, 5.3, 6.6, 8.0)
        ]
        steps = [World(takes).untaught()]
        curves = [
            Curve(
                "fixed interval", "#b4543a", [(c.calls, 100 * c.staleness_s / median_s) for c in fixed]
            ),
            Curve("learned", "#2f6f8f", [(c.calls, 100 * c.staleness_s / median_s) for c in ours]),
            Curve("best possible", "#999999", [(c.calls, 100 * c.staleness_s / median_s) for c in best]),
            Curve(
                "growing steps", "#6b8e23", [(c.calls, 100 * c.staleness_s / median_s) for c in steps]
            ),
        ]
        title = f"median {median_s:g} s, sigma {sigma:g}"
        panels.append(Panel(title, "polls a job", "staleness, % of the median", curves, X_MOST))
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    PLOT.write_text(draw(panels), encoding="utf-8")
    print(f"\nwrote {PLOT.relative_to(ROOT)}")


def engine_table() -> None:
    """The same jobs through the engine: ledger, gate, lanes and all, on a clock that jumps."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tests.support.engine_polls import EnginePolls

    print("\n200 jobs, 16 at a time      | simulation: calls, stale | engine: calls, stale")
    for name, interval_s in (("fixed 5 s", 5.0), ("fixed 12 s", 12.0), ("learned", None)):
        world = partial(World, lognormal(60, 0.3), jobs=200, under_way=16, seed=5)
        simulated = world().fixed(interval_s) if interval_s else world().learned()
        with tempfile.TemporaryDirectory() as path:
            real = asyncio.Runner(loop_factory=EnginePolls.loop)
            with real as runner:
                calls, stale_s = runner.run(
                    EnginePolls(Path(path), lognormal(60, 0.3), Random(6)).run(200, 16, interval_s)
                )
        print(
            f"{name:27s} | {simulated.calls:6.2f}   {simulated.staleness_s:5.2f} s        |"
            f" {calls:6.2f}   {stale_s:5.2f} s"
        )


if __name__ == "__main__":
    lognormal_table()
    other_table()
    engine_table()
    plot()

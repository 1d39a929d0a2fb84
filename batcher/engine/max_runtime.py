"""``--max-runtime``: a run stops submitting so early that it can end in time, and then detaches."""

from __future__ import annotations

from collections.abc import Callable

from batcher.clock import Clock
from batcher.engine.stop import Control
from batcher.errors import OutOfTimeError
from batcher.options.facts import Pace

UNSEEN_SHARE = 0.1
"""How much of its time a run keeps for requests whose duration was never seen."""
LARGEST_SHARE = 0.5
"""At most so much: a run shorter than one generation submits too, and a later one downloads."""
LOOK_AGAIN_S = 5.0


async def end_in_time(
    pace: Pace, control: Control, clock: Clock, longest_s: Callable[[], float | None]
) -> None:
    """Drain when what is submitted now could not end before ``pace.ends_s``; halt at that time.

    ``longest_s`` gives the longest generation seen so far, in seconds. Returns at once if the run may
    take as long as it likes.
    """
    if pace.max_runtime_s is None or pace.ends_s is None:
        return
    while (left_s := pace.ends_s - clock.monotonic()) > (tail_s := _tail_s(pace, longest_s())):
        await clock.sleep(min(left_s - tail_s, LOOK_AGAIN_S))
    over = OutOfTimeError(
        f"--max-runtime of {pace.max_runtime_s:g} s is over: run again to continue with the rest"
    )
    control.drain(over)
    await clock.sleep(max(0.0, pace.ends_s - clock.monotonic() - pace.grace_s))
    control.halt(over)


def _tail_s(pace: Pace, longest_s: float | None) -> float:
    """How long before the end nothing more is submitted, in seconds."""
    assert pace.max_runtime_s is not None
    tail_s = pace.max_runtime_s * UNSEEN_SHARE if longest_s is None else longest_s
    return min(max(tail_s, pace.grace_s), pace.max_runtime_s * LARGEST_SHARE)

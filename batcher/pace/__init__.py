"""When to try, poll and admit: pure decisions on numbers, a clock reading and an rng.

Nothing here sleeps or reads a clock: the engine passes ``now_s`` (monotonic seconds) in and sleeps for
what it gets back, so a day of pacing is tested in no time.
"""

from batcher.pace.adaptive import AUTO_MAX, AUTO_START, LONG_PAUSE_S, Adaptive
from batcher.pace.gate import (
    GATE_BASE_S,
    GATE_CAP_S,
    REACH_BASE_S,
    REACH_CAP_S,
    SPREAD_CAP_S,
    Gate,
    full_jitter_s,
)
from batcher.pace.polling import (
    POLL_FIRST_S,
    POLL_GROWTH,
    POLL_JITTER,
    POLL_MAX_S,
    POLL_MIN_S,
    LearnedPolls,
    Polls,
    PollSchedule,
    Watch,
)
from batcher.pace.rate import RateLimit

__all__ = [
    "AUTO_MAX",
    "AUTO_START",
    "GATE_BASE_S",
    "GATE_CAP_S",
    "LONG_PAUSE_S",
    "POLL_FIRST_S",
    "POLL_GROWTH",
    "POLL_JITTER",
    "POLL_MAX_S",
    "POLL_MIN_S",
    "REACH_BASE_S",
    "REACH_CAP_S",
    "SPREAD_CAP_S",
    "Adaptive",
    "Gate",
    "LearnedPolls",
    "PollSchedule",
    "Polls",
    "RateLimit",
    "Watch",
    "full_jitter_s",
]

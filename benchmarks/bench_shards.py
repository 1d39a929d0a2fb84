"""A hundred shards against one API with a limit: what they use of it, and how evenly, by ``-c``.

By simulation in virtual time, seeded: about a minute. *Even* is what the slowest shard got done, as a
share of what the fastest did.
"""

from __future__ import annotations

from simulated_limits import Jobs, Server
from simulated_shards import Fleet, Shared

SHARDS = 100
MINUTE_S = 60.0
STRETCHES = ((2, 8), (8, 16))
"""In minutes."""
JOBS = Jobs(60.0)
CALLS_PER_JOB = 6.2
"""Of the simulated schedule: a POST, and polls from two sigmas before the median on."""
CASES = [
    ("400 unfinished", Server(400), 4),
    ("1000 unfinished", Server(1000), 10),
    ("100 calls/s", Server(100, by_rate=True), round(100 / CALLS_PER_JOB * JOBS.median_s / SHARDS)),
]


def ways(fair: int) -> list[tuple[str, int | None, float | None]]:
    """What each shard is told: a name, ``-c``, and what the API says when it turns a call away."""
    return [
        (f"-c {fair} each, the limit divided", fair, 1.0),
        (f"-c {4 * fair} each, four times that", 4 * fair, 1.0),
        ("   the same, no Retry-After", 4 * fair, None),
        ("-c auto each", None, 1.0),
    ]


def shares(one: Shared) -> str:
    used, refused = 100 * one.whole.used, 100 * one.whole.refused
    return f"{used:5.1f} % {refused:5.1f} % {one.jobs_per_min:6.0f} {one.fairness:6.2f}"


def table() -> None:
    heads = " | ".join(f"minutes {a} to {b}".center(29) for a, b in STRETCHES)
    print(f"{SHARDS} shards, jobs of {JOBS.median_s:g} s".ljust(38) + f"| {heads}")
    print(" " * 37, *["|  used   refused jobs/min even"] * len(STRETCHES))
    for name, server, fair in CASES:
        print(name)
        for told, concurrency, retry_after_s in ways(fair):
            fresh = Server(server.limit, server.by_rate)
            fleet = Fleet(fresh, JOBS, concurrency, shards=SHARDS, retry_after_s=retry_after_s)
            fleet.run(STRETCHES[-1][1] * MINUTE_S)
            seen = (fleet.shared(a * MINUTE_S, b * MINUTE_S) for a, b in STRETCHES)
            print(f"   {told:34s} | " + " | ".join(map(shares, seen)), flush=True)


if __name__ == "__main__":
    table()

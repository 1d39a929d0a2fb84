"""How many POSTs become ambiguous where servers close kept connections, by how long we reuse them.

Lanes send POSTs at random moments, 0 to 7 s apart, over a line with 40 ms of latency each way, to
servers that close idle connections after 1 to 5 s. A POST is ambiguous when it was on the wire as the
server closed: it would end up as an unknown job. Compares the product's 1.5 s with 15 s, the HTTP
library's default.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial

from batcher.clock import SystemClock
from batcher.errors import OutcomeUnknown
from batcher.http.endpoint import Endpoint, Token
from batcher.http.exchange import Connection, ExchangeTimeouts
from batcher.providers.runcomfy.provider import RunComfy

KEEP_ALIVES_S = (1.0, 2.0, 3.0, 4.0, 5.0)
REUSES_S = (ExchangeTimeouts().post_reuse_s, 15.0)
LATENCY_S = 0.04
LANES = 60
POSTS_PER_LANE = 6
GAP_MAX_S = 7.0
ACCEPTED = b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"request_id":"r1"}'


async def serve(keep_alive_s: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer POSTs with empty JSON bodies; whatever goes either way takes ``LATENCY_S`` to arrive."""
    clock = SystemClock()
    answered_at_s = clock.monotonic()
    try:
        while True:
            # A client learns of a close one latency late: what it sends until then meets a closed door.
            async with asyncio.timeout(keep_alive_s + 2 * LATENCY_S):
                await reader.readexactly(1)
            if clock.monotonic() + LATENCY_S - answered_at_s > keep_alive_s:
                break
            await reader.readuntil(b"{}")
            await clock.sleep(2 * LATENCY_S)
            answered_at_s = clock.monotonic() - LATENCY_S
            writer.write(ACCEPTED)
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.transport.abort()


async def lane(service: RunComfy, gaps_s: list[float], counts: dict[str, int]) -> None:
    for gap_s in gaps_s:
        counts["posts"] += 1
        try:
            await service.submit("acme/paint", b"{}")
        except OutcomeUnknown:
            counts["ambiguous"] += 1
        await asyncio.sleep(gap_s)


async def measured(keep_alive_s: float, reuse_s: float) -> dict[str, int]:
    rng, counts = random.Random(f"{keep_alive_s} {reuse_s}"), {"posts": 0, "ambiguous": 0}
    far = await asyncio.start_server(partial(serve, keep_alive_s), "127.0.0.1", 0)
    port = far.sockets[0].getsockname()[1]
    endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", Token("x" * 20))
    async with (
        far,
        Connection(endpoint, SystemClock(), ExchangeTimeouts(post_reuse_s=reuse_s)) as connection,
    ):
        service = RunComfy(connection, SystemClock())
        gaps = [[rng.uniform(0.0, GAP_MAX_S) for _ in range(POSTS_PER_LANE)] for _ in range(LANES)]
        async with asyncio.TaskGroup() as group:
            for gaps_s in gaps:
                group.create_task(lane(service, gaps_s, counts))
    return counts


async def main() -> None:
    cases = [(keep_alive_s, reuse_s) for reuse_s in REUSES_S for keep_alive_s in KEEP_ALIVES_S]
    results = await asyncio.gather(*(measured(*case) for case in cases))
    print("connection reused within   server closes after   POSTs   ambiguous")
    for (keep_alive_s, reuse_s), counts in zip(cases, results, strict=True):
        print(
            f"{reuse_s:>20.1f} s {keep_alive_s:>20.0f} s {counts['posts']:>9} {counts['ambiguous']:>11}"
        )


if __name__ == "__main__":
    asyncio.run(main())

"""How often a kept connection that its server closes makes a POST ambiguous (docs/guarantees.md).

The benchmark ``benchmarks/bench_keepalive.py`` measures the same over a line with latency.
"""

import asyncio
import random

from batcher.clock import SystemClock
from batcher.errors import OutcomeUnknown
from batcher.http.endpoint import Endpoint, Token
from batcher.http.exchange import ExchangeTimeouts
from tests.support.model_api import model_api
from tests.support.scripted import ScriptedServer, json_answer

ACCEPTED = json_answer({"request_id": "r1"})
SERVERS_S = (2.5, 3.0, 4.0)
LANES = 120
POSTS_PER_LANE = 2


class IdleCloser(ScriptedServer):
    """Closes a connection that has been idle for ``keep_alive_s``, as servers do."""

    def __init__(self, keep_alive_s):
        super().__init__(self._accept)
        self._keep_alive_s = keep_alive_s

    async def _accept(self, request, peer):
        count = len(self.requests)
        await peer.send(ACCEPTED)
        loop = asyncio.get_running_loop()
        loop.call_later(
            self._keep_alive_s, lambda: peer.close() if self._idle_since(peer, count) else None
        )

    def _idle_since(self, peer, count):
        return all(request.connection != peer.connection for request in self.requests[count:])


def client(server, **limits):
    return model_api(Endpoint(server.url, Token("x" * 20)), SystemClock(), ExchangeTimeouts(**limits))


async def lane(service, gaps_s, seen):
    for gap_s in gaps_s:
        await asyncio.sleep(gap_s)
        try:
            await service.submit("acme/paint", b"{}")
            seen["answered"] += 1
        except OutcomeUnknown:
            seen["ambiguous"] += 1


async def ambiguous_posts(keep_alive_s, reuse_s, seed):
    """POSTs at random times to a server that closes idle connections: how many, and how many ambiguous."""
    rng, seen = random.Random(seed), {"answered": 0, "ambiguous": 0}
    async with IdleCloser(keep_alive_s) as server, client(server, post_reuse_s=reuse_s) as service:
        lanes = [
            [0.0, *(rng.uniform(0.0, 1.3 * keep_alive_s) for _ in range(POSTS_PER_LANE - 1))]
            for _ in range(LANES)
        ]
        async with asyncio.TaskGroup() as group:
            for gaps_s in lanes:
                group.create_task(lane(service, gaps_s, seen))
        assert server.connections < len(server.requests), "connections are reused, only not for long"
    return seen


async def test_servers_that_close_idle_connections_after_seconds_make_no_post_ambiguous():
    reuse_s = ExchangeTimeouts().post_reuse_s
    assert reuse_s <= 2.0
    seen = await asyncio.gather(
        *(ambiguous_posts(keep_alive_s, reuse_s, seed) for seed, keep_alive_s in enumerate(SERVERS_S))
    )
    assert sum(one["answered"] for one in seen) == len(SERVERS_S) * LANES * POSTS_PER_LANE
    assert sum(one["ambiguous"] for one in seen) == 0

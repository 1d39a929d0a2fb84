"""Lost submissions to Replicate are found by the list of predictions: certain, or not at all."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from batcher.clock import iso
from batcher.errors import Rejected
from batcher.http.exchange import ApiAnswer, Call
from batcher.ports import Lost
from batcher.providers.replicate_answers import called
from batcher.providers.replicate_tracing import Listing, verdicts

BASE = "https://api.replicate.com/v1"
FLUX = "replicate:black-forest-labs/flux-schnell"
VERSION = "a" * 64
SDXL = f"replicate:stability-ai/sdxl:{VERSION}"
START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
SHA = "5" * 64


class Account:
    """The account's predictions at a server whose clock is ``ahead_s`` ahead of ours."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.ahead = timedelta(seconds=ahead_s)
        self.predictions: list[dict[str, Any]] = []
        self.files: dict[str, str] = {}
        self.defaults: dict[str, Any] = {}
        self.page = 100
        self.dated = True
        self.asked = 0
        self.garbled: Callable[[dict[str, Any]], Any] = lambda page: page

    def now(self) -> datetime:
        return START + timedelta(seconds=self.now_s)

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.now_s += delay_s

    def create(self, inputs: dict[str, Any], at_s: float, model: str = FLUX, **other: Any) -> str:
        path, _, version = model.removeprefix("replicate:").partition(":")
        made = {
            "id": f"p{len(self.predictions)}",
            "model": path,
            "version": version or "hidden",
            "input": inputs,
            "created_at": iso(START + timedelta(seconds=at_s) + self.ahead),
            **other,
        }
        self.predictions.append(made)
        return str(made["id"])

    async def ask(self, call: Call) -> ApiAnswer:

        self.asked += 1
        if call.path.startswith("/files/"):
            sha256 = self.files.get(call.path.removeprefix("/files/"))
            body = {"checksums": {"sha256": sha256}} if sha256 else {"title": "Not found"}
            return ApiAnswer(200 if sha256 else 404, msgspec.json.encode(body))
        assert call.path == "/predictions"
        query = dict(call.query)
        after, before = (datetime.fromisoformat(query[f"created_{k}"]) for k in ("after", "before"))
        found = [
            one
            for one in sorted(self.predictions, key=lambda one: one["created_at"], reverse=True)
            if after <= datetime.fromisoformat(one["created_at"]) < before
        ]
        begin = int(query.get("cursor", "0"))
        more = len(found) > begin + self.page
        following = f"{BASE}/predictions?{urlencode({**query, 'cursor': begin + self.page})}"
        page = {"results": found[begin : begin + self.page], "next": following if more else None}
        date = (self.now() + self.ahead).strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers = CIMultiDict({"Date": date} if self.dated else {})
        return ApiAnswer(200, msgspec.json.encode(self.garbled(page)), headers=headers)

    async def ask_object(self, call: Call) -> dict[str, Any]:
        return called(await self.ask(call), self.now())

    async def trace(self, *lost: Lost, known: tuple[str, ...] = ()) -> dict[str, str | None]:
        """The verdicts: request ids, or None for "nothing was created"."""

        async def defaults(model: str) -> dict[str, Any]:
            return self.defaults

        listing = Listing(self.ask, self.ask_object, self, BASE)
        found = await verdicts(lost, known.__contains__, listing, defaults)
        for job in lost:
            trace = found.get(job.job_id)
            assert trace is None or trace.request is None or trace.request.model == job.model
        return {job: trace.request and trace.request.id for job, trace in found.items()}


def lost(job_id: str, inputs: dict[str, Any], at_s: float = 0.0, model: str = FLUX) -> Lost:
    return Lost(job_id, model, inputs, START + timedelta(seconds=at_s))


CAT = {"prompt": "a cat", "seed": 5}


async def test_one_hit_is_the_request_and_none_means_nothing_once_it_is_settled():
    account = Account()
    found = account.create(CAT, 3)
    account.now_s = 89
    assert await account.trace(lost("a", CAT), lost("b", {"prompt": "a dog"})) == {"a": found}
    account.now_s = 91
    assert await account.trace(lost("a", CAT), lost("b", {"prompt": "a dog"})) == {"a": found, "b": None}
    assert await account.trace() == {}


async def test_after_an_hour_absence_proves_nothing_for_inputs_are_removed():
    account = Account()
    account.now_s = 3500
    assert await account.trace(lost("a", CAT)) == {}
    account.now_s = 3400
    assert await account.trace(lost("a", CAT)) == {"a": None}
    account.create(None, 3, data_removed=True)  # type: ignore[arg-type]
    assert await account.trace(lost("a", CAT)) == {}


async def test_requests_of_other_attempts_and_of_other_models_are_not_ours():
    account = Account()
    mine = account.create(CAT, 1)
    account.create(CAT, 1, model=SDXL)
    account.create(CAT, 1, deployment="acme/flux")
    account.now_s = 300
    assert await account.trace(lost("a", CAT), known=(mine,)) == {"a": None}
    assert await account.trace(lost("a", CAT, model="replicate:deployments/acme/flux")) == {"a": "p2"}


@pytest.mark.parametrize(
    "theirs",
    [
        {"prompt": "a cat", "seed": "5"},
        {"prompt": "a cat", "seed": 5.0000001},
        {"prompt": "A cat ", "seed": 5},
        {"prompt": "a cat"},
        {"prompt": "a cat", "seed": None},
        {"prompt": "a cat", "seed": 5, "added": 1},
        None,
    ],
)
async def test_what_a_server_may_have_rewritten_decides_nothing(theirs):
    account = Account()
    account.now_s = 300
    account.create(theirs, 1)
    assert await account.trace(lost("a", CAT)) == {}


@pytest.mark.parametrize(
    "theirs",
    [{"prompt": "a cat", "seed": 6}, {"prompt": "a dog", "seed": 5}, {"prompt": 7, "seed": 5}],
)
async def test_what_clearly_differs_is_not_ours(theirs):
    account = Account()
    account.now_s = 300
    account.create(theirs, 1)
    assert await account.trace(lost("a", CAT)) == {"a": None}


async def test_defaults_that_a_server_adds_do_not_matter():
    account = Account()
    account.defaults = {"steps": 4}
    account.now_s = 300
    found = account.create({**CAT, "steps": 4, "mask": None}, 1)
    assert await account.trace(lost("a", CAT)) == {"a": found}
    account.predictions.clear()
    account.create({**CAT, "steps": 5}, 1)
    assert await account.trace(lost("a", CAT)) == {"a": None}


async def test_local_media_are_compared_by_the_hash_of_their_upload():
    account = Account()
    account.now_s = 300
    account.files = {"f1": SHA, "f2": "6" * 64}
    ours = {"image": {"path": "a.png", "sha256": SHA}, "more": [{"path": "a.png", "sha256": SHA}]}
    url = f"{BASE}/files/f1"
    found = account.create({"image": url, "more": [url]}, 1)
    assert await account.trace(lost("a", ours)) == {"a": found}
    account.predictions.clear()
    account.create({"image": f"{BASE}/files/f2", "more": [url]}, 1)
    assert await account.trace(lost("a", ours)) == {"a": None}
    for unclear in (f"{BASE}/files/f3", "https://replicate.delivery/x", "https://a.b/files/f1"):
        account.predictions.clear()
        account.create({"image": unclear, "more": [url]}, 1)
        assert await account.trace(lost("a", ours)) == {}


async def test_the_servers_clock_is_what_counts():
    for ahead_s in (-900, -40, 0, 40, 900):
        account = Account(ahead_s)
        account.now_s = 300
        found = account.create(CAT, 2)
        assert await account.trace(lost("a", CAT), lost("b", {"prompt": "x"})) == {"a": found, "b": None}
    account = Account()
    account.dated = False
    account.now_s = 300
    assert await account.trace(lost("a", CAT)) == {}


async def test_one_that_is_older_than_the_intent_decides_nothing():
    account = Account()
    account.now_s = 300
    account.create(CAT, -60)
    assert await account.trace(lost("a", CAT)) == {}
    account.predictions.clear()
    account.create(CAT, -3000)
    assert await account.trace(lost("a", CAT)) == {"a": None}


async def test_the_list_is_read_to_its_end():
    account = Account()
    account.page = 2
    account.now_s = 300
    found = account.create(CAT, 1)
    for n in range(9):
        account.create({"prompt": str(n)}, 2 + n)
    assert await account.trace(lost("a", CAT)) == {"a": found}
    assert account.asked == 5


@pytest.mark.parametrize(
    "garbled",
    [
        lambda page: {"next": None},
        lambda page: {"results": 5, "next": None},
        lambda page: {"results": [5], "next": None},
        lambda page: {"results": [{"id": "../x", "created_at": iso(START)}], "next": None},
        lambda page: {"results": [{"id": "p1", "created_at": "today"}], "next": None},
        lambda page: {**page, "next": "https://evil.example/v1/predictions?cursor=1"},
        lambda page: {**page, "next": f"{BASE}/predictions"},
        lambda page: {**page, "next": 5},
    ],
)
async def test_a_list_that_can_not_be_read_decides_nothing(garbled):
    account = Account()
    account.create(CAT, 1)
    account.now_s = 300
    account.garbled = garbled
    with pytest.raises(Rejected):
        await account.trace(lost("a", CAT))


@given(
    st.integers(0, 2**32),
    st.integers(1, 8),
    st.sampled_from([-700, -3, 0, 3, 700]),
    st.integers(0, 3700),
    st.booleans(),
)
async def test_no_verdict_is_wrong(seed, jobs, ahead_s, now_s, foreign):
    """POSTs lose their answers after and before they created something; others use the account too."""
    rng = random.Random(seed)
    account = Account(ahead_s)
    account.page, account.defaults = rng.choice([1, 2, 100]), {"steps": 4}
    kinds = [{"prompt": p, **more} for p in ("a cat", "a dog", "A cat") for more in ({}, {"seed": 5})]
    ones, truth = [], {}
    for n in range(jobs):
        kind = rng.choice(kinds)
        sent_s = rng.uniform(0, 30)
        ones.append(lost(f"j{n}", kind, sent_s))
        if rng.random() < 0.5 and sent_s + (held_s := rng.uniform(0, 89)) <= now_s:
            added = {"steps": 4} if rng.random() < 0.5 else {}
            truth[f"j{n}"] = account.create({**kind, **added}, sent_s + held_s)
    if foreign:  # by another program, with inputs of its own
        for _ in range(rng.randrange(3)):
            account.create({"prompt": "a cat", "seed": rng.randrange(6, 9)}, rng.uniform(-700, 130))
    for one in account.predictions:
        created_s = (datetime.fromisoformat(one["created_at"]) - START).total_seconds() - ahead_s
        if now_s > created_s + 3600:
            one["input"], one["data_removed"] = None, True
    account.now_s = now_s
    found = await account.trace(*ones)
    kind_of = {one.job_id: one.input for one in ones}
    owners = {request: kind_of[job] for job, request in truth.items()}
    adopted = [request for request in found.values() if request is not None]
    assert len(adopted) == len(set(adopted))
    for job, request in found.items():
        assert request is None or owners[request] == kind_of[job]
    for kind in kinds:
        alike = [job for job in kind_of if kind_of[job] == kind]
        nothing = [job for job in alike if job in found and found[job] is None]
        assert len(nothing) <= len([job for job in alike if job not in truth])
        distinct = len({str(one.input) for one in ones}) == 1
        if distinct and not foreign and 121 <= now_s <= 3400:
            assert found.keys() >= set(alike)

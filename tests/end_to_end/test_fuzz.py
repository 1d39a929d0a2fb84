"""Anything at all as a manifest, a ledger, a server's answer, an id or a file name: errors of ours or none.

End to end where that is cheap: manifests through ``app.plan``, ledgers through ``status`` and ``plan``,
answers through the real client and the real runner.
"""

import asyncio
import json
import os
import random
import tempfile
import unicodedata
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batcher.app.plan import plan as app_plan
from batcher.download.downloader import Downloader
from batcher.download.patience import DownloadLimits
from batcher.download.trust import TrustPolicy
from batcher.engine.host import Host
from batcher.errors import InputError, InterruptedRunError, LedgerError, UsageError
from batcher.http.endpoint import Endpoint, Token
from batcher.jobs.identity import generated_id, input_digest
from batcher.jobs.job import explicit_id_problem, output_name
from batcher.jobs.lifecycle import State
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.summary import listed_jobs, status_of
from batcher.manifest.load import open_manifest
from batcher.manifest.tally import ManifestTally
from batcher.options.facts import Overrides, SandboxOptions
from batcher.options.run import Options
from batcher.planning.plan import make_plan
from batcher.schema.spec import BUILT_IN
from batcher.terminal import visible, visible_json
from tests.support.api_server import TOKEN
from tests.support.engine import Batch, LoopClock, QuickDisk, bought, job, some_jobs
from tests.support.faults import KLING
from tests.support.model_api import model_api
from tests.support.scripted import ScriptedServer, answer, json_answer
from tests.support.steps import result_of

slow = settings(max_examples=60, suppress_health_check=list(HealthCheck))
quick = settings(max_examples=100, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


# --- manifests

WORDS = st.sampled_from(
    [
        *(
            "prompt",
            "image_url",
            "id",
            "model",
            "matrix",
            "vars",
            "repeat",
            "meta",
            "from",
            "input",
            "jobs",
            "name",
        ),
        *(
            "defaults",
            "{{ a }}",
            "{{",
            "meta.x",
            "seed:int",
            KLING,
            "https://example.com/a.png",
            "m.yaml",
            "m.csv",
        ),
        *(
            "data:image/png;base64,AA",
            "*.png",
            "1e999",
            "0x1F",
            ".inf",
            "~",
            "<<",
            "&a",
            "*a",
            "!!binary",
            "\ufeff",
        ),
        *("\x00", "\u2028", "\x85", "😀", "-1", "9" * 30),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2000) | st.floats() | WORDS | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)
ROW = st.dictionaries(WORDS, VALUES, max_size=6)
DOCUMENT = st.fixed_dictionaries(
    {"jobs": st.lists(ROW, max_size=3)},
    optional={"name": VALUES, "model": VALUES, "defaults": VALUES, "matrix": VALUES},
)
TEXT = (
    st.lists(WORDS | st.sampled_from(list(",;\t\n\r\"'[]{}:-# &*!|>%@`")), max_size=40)
    .map("".join)
    .map(lambda text: text.encode(errors="surrogatepass"))
)
MANIFEST = (
    st.binary(max_size=200)
    | TEXT
    | DOCUMENT.map(lambda value: json.dumps(value).encode())
    | st.lists(ROW, max_size=3).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
)


def plan(folder, name, content):
    """``app.plan`` without its catalogue: what a manifest is doesn't depend on it."""
    (folder / name).write_bytes(content)
    options = Options(
        manifest=folder / name,
        overrides=Overrides(model=KLING),
        output=folder / "out",
        sandbox=SandboxOptions(),
    )
    manifest = open_manifest(options.manifest, options.overrides)
    result_of(manifest.models())
    tally = ManifestTally()
    made = result_of(
        make_plan(
            manifest.blocks(BUILT_IN, tally),
            Snapshot(),
            options.selection,
            options.policy,
            lambda block: [None] * len(block),
        )
    )
    tally.raise_if_invalid()
    return made


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.yaml", "m.json", "m.jsonl"])
@quick
@given(content=MANIFEST)
@example(content=b"")
@example(content=b'prompt\n"')
@example(content=b'{"jobs": [{"prompt": "a", "repeat": 1000000000}]}')
@example(content=b'{"jobs": [{"prompt": "a", "from": "m.json"}]}')
@example(content=b"jobs: [{prompt: !!float x}]")
def test_any_bytes_are_a_plan_or_lines_that_say_what_is_wrong(name, content):
    with tempfile.TemporaryDirectory() as folder:
        with suppress(InputError, UsageError):
            assert plan(Path(folder), name, content).total >= 0
        assert os.listdir(folder) == [name]


@pytest.mark.parametrize("name", ["m.csv", "m.yaml", "m.json"])
@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(content=MANIFEST)
def test_any_bytes_go_through_the_whole_of_plan(name, content):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        options = Options(
            manifest=Path(folder) / name,
            overrides=Overrides(model=KLING),
            sandbox=SandboxOptions(),
            output=Path(folder) / "out",
        )
        with suppress(InputError, UsageError):
            asyncio.run(app_plan(options, Host(env={}, home=Path(folder))))
        assert os.listdir(folder) == [name]


# --- ledgers


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a ledger with every kind of ending in it."""
    path = tmp_path_factory.mktemp("whole")

    async def write():
        batch = Batch(path, disk=QuickDisk())
        ends = [
            [],
            [("submitted", {"request_id": "r1"})],
            [("deferred", {"reason": "429"})],
            [("unanswered", {"code": 500, "message": "lost"})],
            [("failed", {"stage": "submit", "code": 422, "message": "no"})],
            [
                ("submitted", {"request_id": "r5"}),
                ("completed", {"cost_usd": 1.5}),
                ("failed", {"stage": "download", "code": "stalled"}),
            ],
            [("submitted", {"request_id": "r6"}), ("cancelled", {})],
        ]
        lines = []
        for number, (one, end) in enumerate(zip(some_jobs(len(ends)), ends, strict=True)):
            intent, _ = bought(one, f"r{number}")
            lines += [intent, *((name, one.id, fields) for name, fields in end)]
        await batch.hold(*lines)
        return batch.ledger_bytes

    with asyncio.Runner() as runner:
        return runner.run(write())


def looked_at(content):
    """What ``status``, ``status --list`` and a plan make of a ledger."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "ledger.jsonl").write_bytes(content)
        try:
            snapshot = read_snapshot(path, QuickDisk())
            told = status_of(path, snapshot, beside=QuickDisk())
            listed = list(listed_jobs(snapshot, frozenset(State)))
        except LedgerError:
            return None
        assert sum(getattr(told, state.value) for state in State) == told.total
        visible_json(told)
        assert all(visible_json(one) for one in listed)
        assert (path / "ledger.jsonl").read_bytes() == content, "looking never writes"
        return told


@quick
@given(data=st.data())
def test_any_prefix_of_a_ledger_is_a_state_that_was_true_once(whole, data):
    told = looked_at(whole[: data.draw(st.integers(0, len(whole)))])
    assert told is not None


@quick
@given(data=st.data())
def test_a_ledger_with_flipped_cut_or_inserted_bytes_is_read_or_refused_but_never_written(whole, data):
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                content[at:at] = data.draw(
                    st.binary(max_size=20) | st.sampled_from([b"\n", b"\x00" * 30, b"{}\n", b"null\n"])
                )
        if not content:
            break
    looked_at(bytes(content))


LINE = st.fixed_dictionaries(
    {
        "event": st.sampled_from(
            [
                "run",
                "submitting",
                "submitted",
                "completed",
                "done",
                "failed",
                "deferred",
                "orphaned",
                "later",
            ]
        ),
        "at": st.text(max_size=5) | JSON,
    },
    optional=dict.fromkeys(
        (
            "job",
            "attempt",
            "model",
            "input",
            "files",
            "stage",
            "code",
            "price_usd",
            "cost_usd",
            "request_id",
            "run",
            "total",
            "pid",
            "host",
            "group",
        ),
        JSON,
    ),
)


@quick
@given(lines=st.lists(LINE, max_size=4))
@example(lines=[{"event": "run", "at": "", "run": "x", "total": -5}])
@example(
    lines=[
        {
            "event": "run",
            "at": "",
            "run": "x",
            "total": 1,
            "pid": 10**12,
            "host": __import__("socket").gethostname(),
        }
    ]
)
@example(
    lines=[
        {
            "event": "run",
            "at": "",
            "run": "x",
            "total": 1,
            "pid": -1,
            "host": __import__("socket").gethostname(),
        }
    ]
)
@example(
    lines=[
        {"event": "submitting", "at": "", "job": "a", "price_usd": float("1e308")},
        {"event": "submitting", "at": "", "job": "b", "price_usd": float("1e308")},
    ]
)
def test_well_formed_lines_of_any_content_are_read_or_refused(lines):
    looked_at("".join(json.dumps(one) + "\n" for one in lines).encode())


# --- answers of the API

ANSWER_FIELDS = [
    "request_id",
    "status",
    "output",
    "error",
    "error_code",
    "message",
    "detail",
    "cost",
    "queue_position",
    "model_id",
]
ANSWER = JSON | st.dictionaries(
    st.sampled_from(ANSWER_FIELDS),
    JSON | st.sampled_from(["completed", "failed", "in_queue", "cancelled", 400002, 403001, 404001]),
    max_size=6,
)
STATUS = st.sampled_from(
    [
        200,
        200,
        200,
        201,
        202,
        204,
        301,
        400,
        401,
        402,
        403,
        404,
        408,
        409,
        422,
        425,
        429,
        500,
        502,
        503,
        504,
    ]
)


def as_json(status, value):
    return answer(
        status, json.dumps(value).encode(errors="surrogatepass"), {"Content-Type": "application/json"}
    )


WATCHED_S = 0.1


async def run_one(batch_path, submitted, result):
    """One job through the real client and runner; returns its state and how often it was POSTed."""

    async def answered(request, peer):
        asked.set()
        await peer.send(submitted if request.method == "POST" else result)

    async def stop_soon(runner):
        await asked.wait()
        await asyncio.sleep(WATCHED_S)
        runner.control.halt(InterruptedRunError("enough"))

    asked, clock = asyncio.Event(), LoopClock()
    async with ScriptedServer(answered) as server:
        endpoint = Endpoint(server.url, Token(TOKEN))
        limits = DownloadLimits(stall_s=0.05, backoff_base_s=0.01)
        async with (
            model_api(endpoint, clock) as api,
            Downloader(TrustPolicy((endpoint.base_url,)), limits, clock, random.Random(1)) as fetcher,
        ):
            batch = Batch(batch_path, api=api, files=fetcher, clock=clock)
            ended = await batch.run(
                [job("cat")], meanwhile=stop_soon, poll_interval_s=0.01, job_timeout_s=0.05, grace_s=0.2
            )
            posts = len(server.posts)
    assert sum(ended.states.values()) <= 1
    return next(iter(ended.states), "pending"), posts


@slow
@given(status=STATUS, value=ANSWER)
@example(status=200, value={"request_id": "r1"})
def test_any_answer_to_a_post_leaves_a_state_that_never_buys_twice(status, value):
    with tempfile.TemporaryDirectory() as folder:
        in_queue = json_answer({"status": "in_queue"})
        state, posts = asyncio.run(run_one(Path(folder), as_json(status, value), in_queue))
    assert state in {"pending", "unknown", "submitted", "failed"}
    assert posts == 1 or state in ("pending", "unknown"), "only what was turned away goes out again"
    if 200 <= status < 300 and state not in ("submitted", "failed", "pending"):
        assert (state, posts) == ("unknown", 1)


@slow
@given(status=STATUS, value=ANSWER)
@example(status=200, value={"status": "completed", "output": {"video": "https://evil.example/a.mp4"}})
@example(status=200, value={"status": "completed", "cost": 1e400, "output": []})
@example(status=200, value={"status": "completed", "output": "completed"})
def test_any_answer_to_a_poll_never_leads_to_a_second_post(status, value):
    with tempfile.TemporaryDirectory() as folder:
        state, posts = asyncio.run(
            run_one(Path(folder), json_answer({"request_id": "r1"}), as_json(status, value))
        )
    assert posts == 1
    # Text in place of an output is an output: some models answer in words.
    assert state in {"submitted", "completed", "done", "failed", "cancelled"}


@slow
@given(body=st.binary(max_size=300), status=STATUS)
def test_any_bytes_as_answers_leave_a_state_that_never_buys_twice(body, status):
    with tempfile.TemporaryDirectory() as folder:
        raw = answer(status, body)
        state, posts = asyncio.run(run_one(Path(folder), raw, raw))
    assert state in {"pending", "unknown", "failed"}
    assert state == "pending" or posts == 1


# --- ids, file names, text for terminals


@quick
@given(text=st.text(max_size=150))
def test_an_explicit_id_is_one_safe_file_name_or_refused_with_a_usable_suggestion(text):
    problem = explicit_id_problem(text)
    if problem is None:
        name = output_name(text, 0, 2, ".mp4")
        assert name == os.path.basename(name)
        assert not name.startswith((".", "-"))
        assert len(name.encode()) < 255
        return
    suggestion = problem.rpartition("try '")[2].removesuffix("'")
    assert explicit_id_problem(suggestion) is None
    assert len(problem.splitlines()) == 1


@quick
@given(prompt=JSON, other=JSON)
def test_a_generated_id_is_a_safe_name_and_if_ascii_an_explicit_id_too(prompt, other):
    try:
        inputs = json.loads(json.dumps({"prompt": prompt, "other": other}))
        digest = input_digest("acme/paint", inputs)
    except (UnicodeEncodeError, OverflowError):
        return
    made = generated_id(inputs, digest)
    assert len(made.encode()) <= 100
    assert all(char == "-" or unicodedata.category(char)[0] in "LNM" for char in made)
    assert not made.isascii() or explicit_id_problem(made) is None


@quick
@given(text=st.text())
def test_what_is_shown_is_one_printable_line_and_json_stays_itself(text):

    assert not any(
        ord(char) < 32 or 127 <= ord(char) < 160 for char in visible(text) + visible_json({"a": text})
    )
    assert json.loads(visible_json({"a": text})) == {"a": text}
    assert visible(visible(text)) == visible(text)

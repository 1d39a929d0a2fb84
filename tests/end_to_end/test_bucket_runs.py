"""Runs whose outputs go to S3, from outside: a real S3 server, a real API server, real processes that die."""

from __future__ import annotations

import asyncio
import csv
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import batcher
from batcher.app.resolve import cancel, resolve
from batcher.cli.read_commands import verify_outputs
from batcher.engine.host import Host
from batcher.errors import CredentialsError, LedgerError, LockedError, RunDirError, UsageError
from batcher.sandbox.catalogue import catalogue
from tests.forked import popen
from tests.support.api_server import TOKEN, ApiServer, environment
from tests.support.object_store import QUICK, SECRET, Fault, FaultyProxy

pytest_plugins = ["tests.support.bucket_fixtures"]

pytest.importorskip("obstore", reason="needs pip install obstore boto3")

KLING = "kling/kling-2-1/master/image-to-video"
ALWAYS = 100_000
HOLDER = ".batcher/holder.json"
ROWS = 4


@dataclass
class Desk:
    """A manifest, an API, and a bucket behind a proxy."""

    server: ApiServer
    folder: Path
    proxy: FaultyProxy
    client: Any
    name: str
    here: Path

    @property
    def url(self) -> str:
        return f"s3://{self.name}/summer"

    def rows(self, count: int) -> None:
        with (self.folder / "pairs.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "prompt", "image_url", "model"])
            writer.writerows(
                [f"cat-{n}", f"cat {n}", f"https://example.com/{n}.png", KLING] for n in range(count)
            )

    async def run(self, state_dir: Path | None = None, **options: Any) -> batcher.Summary:
        settings = {"output": self.url, "state_dir": state_dir or self.here, "yes": True}
        return await batcher.run(self.folder / "pairs.csv", poll=0.05, **(settings | options))

    async def command(self, *words: object, dies_at: str | None = None, **env: str) -> tuple[int, str]:
        """Run the command, to be killed as it comes to ``dies_at``; its exit code and all it said."""
        process = await asyncio.to_thread(self.start, *words, dies_at=dies_at, **env)
        said, _ = await asyncio.to_thread(process.communicate)
        return process.returncode, said

    def start(self, *words: object, dies_at: str | None = None, **env: str) -> subprocess.Popen[str]:
        program = ["-m", "batcher"] if dies_at is None else ["-c", DEADLY, dies_at]
        settings = environment(self.server, self.folder, **env) | {
            "AWS_ACCESS_KEY_ID": "AKIATESTKEY",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.proxy.url,
        }
        return popen(
            [sys.executable, *program, *map(str, words)],
            cwd=self.folder,
            env=settings | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def words(self) -> list[str]:
        return [
            "run",
            "pairs.csv",
            "--yes",
            "--poll",
            "0.1",
            "-o",
            self.url,
            "--state-dir",
            str(self.here),
        ]

    def objects(self, folder: str = "") -> dict[str, bytes]:
        """What lies in the bucket: a look past the proxy."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=f"summer/{folder}"
        )
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        read = {key: self.client.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}
        return {key.removeprefix("summer/"): content for key, content in read.items()}

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=f"summer/{key}")

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"summer/{key}", Body=content)

    def check_complete(self, count: int = ROWS) -> None:
        """The bucket holds a whole dataset, was paid for once, and nobody holds it."""
        assert len({post["prompt"] for post in self.server.posts}) == len(self.server.posts) == count
        found = self.objects()
        media = {key: content for key, content in found.items() if key.startswith("media/")}
        wanted = {content.media for content in self.server.created.values()}
        assert len(media) == count
        assert set(media.values()) == wanted
        rows = [json.loads(line) for line in found["metadata.jsonl"].splitlines()]
        assert {row["file_name"] for row in rows} == set(media)
        assert HOLDER not in found

    def check_nothing_here(self, state_dir: Path | None = None) -> None:
        root = state_dir or self.here
        assert list((root / "media").iterdir()) == []
        assert not (root / HOLDER).exists()
        names = [path.name for path in root.glob("ledger*.jsonl")]
        assert names
        assert all((root / name).read_bytes() == self.objects()[name] for name in names)


DEADLY = """
import os, signal, sys
from batcher.store.objects import remote
from batcher.store import ledger_copy, bucket_outputs

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after(owner, name, times=1):
    whole = getattr(owner, name)
    count = iter(range(times))
    async def deadly(*given, **named):
        await whole(*given, **named)
        if next(count, None) == times - 1:
            die()
    setattr(owner, name, deadly)

place = sys.argv.pop(1)
if place == "before the claim is answered":
    after(remote.RemoteBucket, "put_new")
elif place == "between upload and done":
    after(bucket_outputs.BucketRunDir, "keep", 2)
elif place == "between done and discard_local_copies":
    bucket_outputs.BucketRunDir.discard_local_copies = die
elif place == "before the ledger is handed over":
    ledger_copy.hand_over = bucket_outputs.hand_over = die
elif place == "between ledger and metadata":
    after(ledger_copy, "_send")
elif place == "after the bucket was let go of":
    after(remote.RemoteBucket, "delete")

from batcher.__main__ import main
main()
"""
PLACES = [line.split('"')[1] for line in DEADLY.splitlines() if "place == " in line]


@pytest.fixture
async def desk(client, s3_name, moto, signed_in, tmp_path) -> AsyncIterator[Desk]:
    served = ApiServer(generate_s=0.05)
    served.catalogue = {KLING: catalogue()[KLING].listing(include_schema=True)}
    served.start()
    async with FaultyProxy(moto) as proxy:
        signed_in.setenv("AWS_ENDPOINT_URL", proxy.url)
        signed_in.setenv("RUNCOMFY_MODEL_API_BASE", served.base)
        signed_in.setenv("RUNCOMFY_TOKEN", TOKEN)
        signed_in.setattr("batcher.store.objects.opening.StoreRetries", lambda: QUICK)
        signed_in.chdir(tmp_path)
        desk = Desk(served, tmp_path, proxy, client, s3_name, tmp_path / "state")
        desk.rows(ROWS)
        yield desk
    served.stop()


async def test_every_output_ends_in_the_bucket_and_none_here(desk):
    summary = await desk.run()
    assert (summary.exit_code, summary.done) == (0, ROWS)
    desk.check_complete()
    desk.check_nothing_here()


async def test_a_second_run_buys_fetches_and_stores_nothing(desk):
    await desk.run()
    ledger, downloads = desk.objects()["ledger.jsonl"], desk.server.downloads
    desk.proxy.requests.clear()
    summary = await desk.run()
    assert (summary.exit_code, summary.done, summary.submitted_now) == (0, ROWS, 0)
    desk.check_complete()
    assert desk.server.downloads == downloads
    assert desk.objects()["ledger.jsonl"] == ledger
    assert {request.target.split("/", 2)[2] for request in desk.proxy.seen("PUT")} == {
        f"summer/{HOLDER}"
    }


@pytest.mark.parametrize("place", PLACES)
async def test_a_run_that_dies_anywhere_goes_on_in_its_state_dir_and_nowhere_else(desk, place):
    code, said = await desk.command(*desk.words, dies_at=place)
    assert code == -signal.SIGKILL, said
    other = desk.folder / "other"
    if place != "after the bucket was let go of":
        with pytest.raises(LockedError, match=f"the state directory .*:{desk.here} holds it"):
            await desk.run(other)
        assert not other.exists()
    summary = await desk.run()
    assert summary.exit_code == 0, summary
    desk.check_complete()
    desk.check_nothing_here()
    assert (await desk.run(other)).submitted_now == 0
    desk.check_complete()


async def test_an_interrupted_run_lets_go_and_another_machine_takes_its_requests_up(desk):
    desk.server.generate_s = 30.0
    process = desk.start(*desk.words)
    ledger = desk.here / "ledger.jsonl"
    while not (ledger.exists() and ledger.read_text().count('"event":"submitted"') == ROWS):
        assert process.poll() is None
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(process.communicate)
    assert process.returncode == 130
    desk.server.generate_s = 0.0
    summary = await desk.run(desk.folder / "other")
    assert (summary.exit_code, summary.done) == (0, ROWS)
    desk.check_complete()
    desk.check_nothing_here(desk.folder / "other")


async def test_state_dirs_that_take_turns_each_take_up_where_the_other_ended(desk):
    other = desk.folder / "other"
    for turn, count in enumerate((2, 4, 4, 6)):
        desk.rows(count)
        state_dir = (desk.here, other)[turn % 2]
        assert (await desk.run(state_dir)).exit_code == 0
        desk.check_complete(count)
        desk.check_nothing_here(state_dir)


@pytest.mark.parametrize("same_length", [True, False])
async def test_ledgers_that_went_separate_ways_stop_both(desk, same_length):
    await desk.run()
    ledger = desk.here / "ledger.jsonl"
    before = ledger.read_bytes()
    changed = before.replace(b"cat-0", b"cat-x") if same_length else before + before.splitlines(True)[1]
    desk.put("ledger.jsonl", changed[: len(changed) if same_length else -1].replace(b"cat-1", b"cat-y"))
    objects, posts = desk.objects(), len(desk.server.posts)
    with pytest.raises(LedgerError, match=r"ledger\.jsonl: and .* have gone separate ways"):
        await desk.run()
    with pytest.raises(LedgerError, match="separate ways"):
        await batcher.plan("pairs.csv", output=desk.url, state_dir=desk.here)
    assert desk.objects() == objects
    assert ledger.read_bytes() == before
    assert len(desk.server.posts) == posts


async def test_outputs_without_any_ledger_stop_the_run_and_leave_the_bucket_free(desk):
    await desk.run()
    desk.delete("ledger.jsonl")
    other = desk.folder / "other"
    for _ in range(2):  # the first must not have left a claim behind
        with pytest.raises(LedgerError, match=r"media/cat-.* is there, but no ledger"):
            await desk.run(other)
    with pytest.raises(LedgerError, match="no ledger"):
        await batcher.plan("pairs.csv", output=desk.url, state_dir=other)
    assert (await desk.run()).exit_code == 0  # where the ledger is, it is left to the bucket again
    desk.check_complete()
    assert "ledger.jsonl" in desk.objects()


async def test_a_state_dir_is_tied_to_its_bucket_once_it_holds_a_batch(desk):
    wrong = {"output": desk.url.replace("summer", "sumer")}
    (desk.folder / "bad.csv").write_text("prompt,model\ncat,no such/model\n")
    with pytest.raises(batcher.BatcherError):
        await batcher.run("bad.csv", **wrong, state_dir=desk.here, model=KLING)
    await desk.run()
    with pytest.raises(UsageError, match=rf"its outputs lie in {desk.url}, not in s3://.*/sumer"):
        await desk.run(**wrong)
    desk.check_complete()


async def test_a_run_with_mistakes_holds_nothing_afterwards(desk):
    (desk.folder / "bad.csv").write_text("prompt,no_such_field\ncat,1\n")
    for state_dir in (desk.here, desk.folder / "other"):
        with pytest.raises(batcher.InputError):
            await batcher.run("bad.csv", output=desk.url, state_dir=state_dir, model=KLING)
    assert desk.objects() == {}


async def test_a_plan_reads_the_ledger_in_the_bucket_and_writes_nothing(desk):
    await desk.run()
    desk.rows(ROWS + 1)
    before, other = desk.objects(), desk.folder / "other"
    desk.proxy.requests.clear()
    planned = await batcher.plan("pairs.csv", output=desk.url, state_dir=other)
    assert (planned.to_buy, planned.total) == (1, ROWS + 1)
    await desk.run()
    stale = {path: path.read_bytes() for path in other.rglob("*")}
    planned = await batcher.plan("pairs.csv", output=desk.url, state_dir=other)
    assert planned.to_buy == 0
    assert stale == {}
    assert not other.exists()
    assert desk.objects().keys() - before.keys() == {f"media/cat-{ROWS}.mp4"}


async def test_a_plan_of_a_bucket_that_is_held_elsewhere_says_so(desk):
    desk.put(HOLDER, b'{"host": "h", "state_dir": "/there", "token": "t"}')
    with pytest.raises(LockedError, match="h:/there holds it"):
        await batcher.plan("pairs.csv", output=desk.url, state_dir=desk.here)
    assert not desk.here.exists()


@pytest.mark.parametrize(
    "fault",
    [
        Fault("reset", "PUT", times=6, after_bytes=1000),
        Fault("drop_answer", "PUT", times=3),
        Fault("drop_answer", "HEAD", times=3),
        Fault("reset", "PUT", part=2, times=3, after_bytes=100_000),
        Fault("slow_down", "POST", query="uploadId", times=2),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.on}-{fault.query or fault.part}",
)
async def test_a_store_that_falters_delays_the_run_and_no_more(desk, fault):
    large = fault.part is not None or bool(fault.query)
    tail = bytes(9 << 20) if large else b""
    desk.server.on_media = lambda server, asked: web.Response(
        body=server.created[asked["id"]].media + tail, content_type="video/mp4"
    )
    desk.rows(1 if large else ROWS)
    desk.proxy.plan(replace(fault, reached=asyncio.Event()))
    assert (await desk.run()).exit_code == 0
    media = set(desk.objects("media/").values())
    assert media == {made.media + tail for made in desk.server.created.values()}
    assert len(desk.server.posts) == len(media)
    assert not desk.client.list_multipart_uploads(Bucket=desk.name).get("Uploads")


@pytest.mark.parametrize("held", [Fault("hold", "PUT"), Fault("hold", "HEAD")], ids=["PUT", "HEAD"])
async def test_done_is_not_said_before_the_store_has_all_of_it(desk, held):
    hold = replace(held, times=ALWAYS, reached=asyncio.Event())
    desk.proxy.plan(Fault("drip", "PUT"), hold)  # the claim gets through
    running = asyncio.create_task(desk.run())
    await hold.reached.wait()
    lines = [json.loads(line) for line in (desk.here / "ledger.jsonl").read_bytes().splitlines()]
    assert {line["event"] for line in lines} == {"run", "submitting", "submitted", "completed"}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(("way", "code"), [("dead", 73), ("busy", 73), ("refusing", 77)])
async def test_a_store_that_is_lost_ends_the_run_and_the_next_brings_the_rest(
    desk, moto, signed_in, way, code
):
    loop, dying = asyncio.get_running_loop(), []

    def lose(*_: object) -> None:
        if way == "dead":
            dying.append(asyncio.run_coroutine_threadsafe(desk.proxy.die(), loop))
        kind = "slow_down" if way == "busy" else "refuse"
        desk.proxy.plan(*(Fault(kind, on, times=ALWAYS) for on in ("PUT", "POST", "HEAD", "GET")))

    desk.server.on_media = lose
    summary = await desk.run()
    assert summary.exit_code == code
    assert f"{desk.url}/media/cat-" in summary.stopped
    assert summary.done == 0 < summary.completed
    assert summary.completed + summary.submitted == len(desk.server.posts) == ROWS
    desk.server.on_media = None
    signed_in.setenv("AWS_ENDPOINT_URL", moto)
    with pytest.raises(LockedError):
        await desk.run(desk.folder / "other")
    assert (await desk.run()).exit_code == 0
    desk.check_complete()
    desk.check_nothing_here()


async def test_a_store_that_is_lost_as_the_ledger_is_left_to_it_ends_the_run_with_an_error(desk):
    desk.rows(1)
    lost = Fault("slow_down", "PUT", times=ALWAYS)
    # The claim and the one output get through.
    desk.proxy.plan(Fault("drip", "PUT"), Fault("drip", "PUT"), lost)
    with pytest.raises(RunDirError, match=r"ledger\.jsonl: can't write: the store was busy"):
        await desk.run()
    desk.proxy.plan()
    assert (await desk.run()).submitted_now == 0
    desk.check_complete(1)
    desk.check_nothing_here()


async def test_a_claim_that_was_deleted_by_hand_does_not_lose_what_the_other_wrote(desk):
    desk.server.generate_s = 0.5
    running = asyncio.create_task(desk.run())
    while len(desk.server.posts) < ROWS:
        await asyncio.sleep(0.01)
    desk.delete(HOLDER)
    desk.put("ledger.jsonl", b"of another\n")
    with pytest.raises(LedgerError, match="separate ways"):
        await running
    assert desk.objects()["ledger.jsonl"] == b"of another\n"


async def test_a_server_that_comes_back_is_waited_for(desk, moto, signed_in):
    async with FaultyProxy(moto) as proxy:
        signed_in.setenv("AWS_ENDPOINT_URL", proxy.url)
        hold = Fault("hold", "PUT", times=ROWS)
        desk.server.on_media = lambda server, asked: (proxy.plan(hold), None)[1]
        signed_in.setattr(
            "batcher.store.objects.opening.StoreRetries", lambda: replace(QUICK, retries=50)
        )
        running = asyncio.create_task(desk.run())
        await hold.reached.wait()
        await proxy.die()
        desk.server.on_media = None
        proxy.plan()
        await asyncio.sleep(0.3)
        await proxy.resume()
        assert (await running).stopped is None
    desk.check_complete()


async def test_wrong_credentials_end_the_run_before_it_buys(desk):
    desk.proxy.plan(*(Fault("refuse", on, times=ALWAYS) for on in ("PUT", "GET", "HEAD")))
    with pytest.raises(CredentialsError) as refused:
        await desk.run()
    assert refused.value.exit_code == 77
    assert desk.server.posts == []
    assert not desk.here.exists()


async def test_an_output_that_is_gone_or_cut_short_is_fetched_again(desk):
    await desk.run()
    desk.delete("media/cat-1.mp4")
    desk.put("media/cat-2.mp4", b"short")
    code = await asyncio.to_thread(verify_outputs, desk.here, as_json=True)
    assert code == 1
    assert (await desk.run()).exit_code == 0
    desk.check_complete()
    desk.check_nothing_here()
    assert await asyncio.to_thread(verify_outputs, desk.here, as_json=True) == 0


async def test_verify_reads_every_byte_from_the_bucket(desk, capsys):
    await desk.run()
    desk.put("media/cat-1.mp4", desk.objects()["media/cat-1.mp4"][::-1])
    assert await asyncio.to_thread(verify_outputs, desk.here, as_json=False) == 1
    said = capsys.readouterr().out
    assert "media/cat-1.mp4: its bytes have changed" in said
    assert f"{ROWS - 1} of {ROWS} files match the ledger" in said


async def test_redo_sets_the_old_object_aside_in_the_bucket(desk):
    await desk.run()
    old = desk.objects("media/")["media/cat-1.mp4"]
    assert (await desk.run(only="cat-1", redo=True)).exit_code == 0
    found = desk.objects()
    assert found["superseded/cat-1.attempt-1.mp4"] == old
    assert found["media/cat-1.mp4"] != old
    assert len(desk.objects("media/")) == ROWS
    desk.check_nothing_here()


async def test_shards_leave_their_ledgers_and_one_metadata_and_let_go(desk):
    desk.rows(8)
    summaries = await asyncio.gather(*(desk.run(shard=(n, 2)) for n in (1, 2)))
    assert [summary.exit_code for summary in summaries] == [0, 0]
    desk.check_complete(8)
    desk.check_nothing_here()
    assert {"ledger.1-of-2.jsonl", "ledger.2-of-2.jsonl"} <= desk.objects().keys()
    assert (await desk.run(desk.folder / "other")).submitted_now == 0


async def test_a_shard_that_ends_leaves_the_bucket_to_one_that_is_at_work(desk):
    desk.rows(8)
    assert (await desk.run(shard=(1, 2), limit=1)).exit_code == 0
    desk.server.generate_s = 30.0
    working = desk.start(*desk.words, "--shard", "2/2")
    posts = len(desk.server.posts)
    while len(desk.server.posts) == posts:
        await asyncio.sleep(0.02)
    working.send_signal(signal.SIGSTOP)
    desk.server.generate_s = 0.05
    assert (await desk.run(shard=(1, 2))).exit_code == 0
    assert HOLDER in desk.objects()
    with pytest.raises(LockedError):
        await desk.run(desk.folder / "other")
    working.kill()
    await asyncio.to_thread(working.communicate)
    with pytest.raises(LockedError):
        await desk.run(desk.folder / "other")
    assert (await desk.run(shard=(2, 2))).exit_code in (0, 1)
    assert HOLDER not in desk.objects()


async def test_no_credential_is_written_or_said_anywhere(desk):
    code, said = await desk.command(*desk.words, "-v", "--log-format", "json")
    assert code == 0
    desk.rows(ROWS + 1)
    desk.proxy.plan(Fault("refuse", "PUT", times=ALWAYS, code="SignatureDoesNotMatch"))
    code, refused = await desk.command(*desk.words, "-v")
    assert code == 77
    files = [path.read_bytes() for path in desk.folder.rglob("*") if path.is_file()]
    for text in (said.encode(), refused.encode(), *files, *desk.objects().values()):
        assert b"AKIATESTKEY" not in text
        assert SECRET.encode() not in text
        assert b"StringToSign" not in text


async def test_what_is_resolved_or_cancelled_reaches_the_bucket(desk: Desk) -> None:
    desk.server.after_post = lambda server, body: web.Response(status=500)
    assert (await desk.run()).unknown == ROWS
    desk.server.after_post = None
    for made in desk.server.created.values():
        number = made.body["prompt"].removeprefix("cat ")
        await resolve(desk.here, f"cat-{number}", made.id, Host())
    assert HOLDER not in desk.objects()
    assert desk.objects()["ledger.jsonl"] == (desk.here / "ledger.jsonl").read_bytes()
    assert (await desk.run(desk.folder / "other")).done == ROWS
    desk.check_complete()
    await cancel(desk.here, Host())
    desk.check_nothing_here()

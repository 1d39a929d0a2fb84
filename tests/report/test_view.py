"""`batcher view`: who gets in, what is served, and a page that follows a run and keeps marks."""

import asyncio
import json
import os
import signal
import sys

import aiohttp
import pytest
from click.testing import CliRunner

from batcher.cli.entry import cli
from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.ledger.marks_file import read_marks
from batcher.report.fetched import FetchedOutputs
from batcher.report.serve import View
from tests.support.browser import browser, chromium
from tests.support.dataset import RunMaker, clip, mixed_run, picture
from tests.support.engine import job

in_browser = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")


def view(run_dir):
    return View(run_dir, LocalDisk(), SystemClock())


async def status(address, **more):
    async with aiohttp.ClientSession() as session, session.get(address, **more) as answer:
        await answer.read()
        return answer.status


async def post(address, body, **headers):
    origin = address.rsplit("/", 2)[0]
    headers = {"Origin": origin, "Content-Type": "application/json", **headers}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{address}marks", data=body, headers=headers) as answer,
    ):
        return answer.status


async def test_only_its_own_page_on_this_machine_gets_in(tmp_path):
    run_dir = await mixed_run(tmp_path / "run")
    async with view(run_dir).serving() as address:
        assert address.startswith("http://127.0.0.1:")
        root = address.rsplit("/", 2)[0]
        assert await status(address) == 200
        assert await status(f"{root}/") == 404
        assert await status(f"{root}/guess/") == 404
        assert await status(f"{root}/guess/media/fox.mp4") == 404
        assert await status(address, headers={"Host": "evil.example"}) == 403
        assert await status(f"{address}data", headers={"Origin": "http://evil.example"}) == 403
        assert await status(f"{address}data", headers={"Origin": "null"}) == 403
        mark = b'{"job":"fox","mark":"star"}'
        assert await post(address, mark, Origin="http://evil.example") == 403
        assert await post(address, mark, **{"Content-Type": "text/plain"}) == 403
        assert read_marks(run_dir) == {}


async def test_it_serves_outputs_and_unchanged_inputs_and_nothing_else(tmp_path):
    from hashlib import sha256

    (tmp_path / "in.png").write_bytes(picture("in"))
    (tmp_path / "key.pem").write_text("secret")
    (tmp_path / "m.yaml").write_text("jobs: []")
    made = RunMaker(tmp_path / "run").begin(2, manifest=str(tmp_path / "m.yaml"))
    good = {"path": "in.png", "sha256": sha256(picture("in")).hexdigest()}
    wrong = {"path": "in.png", "sha256": "00"}
    other = {"path": "key.pem", "sha256": sha256(b"secret").hexdigest()}
    await made.done(job("a", image=good, end_image=wrong, mask_image=other), clip("a"))
    run_dir = await made.end()
    (run_dir / "media" / "stray.mp4").write_bytes(b"x")
    async with view(run_dir).serving() as address:
        async with aiohttp.ClientSession() as session, session.get(f"{address}data") as answer:
            data = await answer.json()
        paths = {m["field"]: m.get("path") for m in data["jobs"][0]["media"]}
        assert await status(f"{address}media/a.mp4") == 200
        assert await status(f"{address}media/a.mp4", headers={"Range": "bytes=0-9"}) == 206
        assert await status(address + paths["image"]) == 200
        assert await status(address + paths["end_image"]) == 404
        assert paths["mask_image"] is None
        for name in (
            "ledger.jsonl",
            "marks.jsonl",
            "media/stray.mp4",
            "media/..%2f..%2fkey.pem",
            "%2fetc%2fpasswd",
        ):
            assert await status(address + name) == 404


async def test_a_ledger_that_names_files_elsewhere_is_not_believed(tmp_path):
    run_dir = await mixed_run(tmp_path / "run")
    (tmp_path / "secret.mp4").write_bytes(b"x")
    ledger = run_dir / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b"media/fox.mp4", b"../secret.mp4"))
    (run_dir / "media" / "v1.2.mp4").unlink(missing_ok=True)
    async with view(run_dir).serving() as address:
        assert await status(f"{address}..%2fsecret.mp4") == 404


async def in_a_bucket(tmp_path):
    """A run directory whose outputs lie in a folder elsewhere."""
    bucket = tmp_path / "the bucket"
    run_dir = await mixed_run(tmp_path / "run")
    (run_dir / ".batcher" / "bucket.json").write_text(json.dumps({"url": f"file://{bucket}"}))
    bucket.mkdir()
    (run_dir / "media").rename(bucket / "media")
    return run_dir, bucket


async def test_outputs_in_a_bucket_are_fetched_as_they_are_asked_for(tmp_path):
    run_dir, bucket = await in_a_bucket(tmp_path)
    (bucket / "other.txt").write_text("not of this run")
    told = []
    async with View(run_dir, LocalDisk(), SystemClock(), told.append).serving() as address:
        assert await status(f"{address}media/fox.mp4", headers={"Range": "bytes=0-9"}) == 206
        assert await status(f"{address}other.txt") == 404
        (bucket / "media" / "lake.0.png").unlink()
        for _ in range(2):
            assert await status(f"{address}media/lake.0.png") == 404
    assert [line for line in told if "lake.0.png" in line] == told
    assert len(told) == 1


async def test_copies_of_a_bucket_s_outputs_are_limited_and_go_with_the_server(tmp_path):
    _, bucket = await in_a_bucket(tmp_path)
    names = ["media/fox.mp4", "media/short.mp4"]
    most = max((bucket / name).stat().st_size for name in names)
    fetched = FetchedOutputs(f"file://{bucket}", kept_bytes=most)
    first = await fetched.path_of(names[0])
    second = await fetched.path_of(names[1])
    assert not first.exists()
    assert second.read_bytes() == (bucket / names[1]).read_bytes()
    (bucket / names[1]).unlink()
    assert await fetched.path_of(names[1]) == second
    fetched.close()
    assert not second.parent.exists()


def test_a_bucket_is_named_by_its_state_directory():
    for command in ("view", "report", "status"):
        said = CliRunner().invoke(cli, [command, "s3://clips/summer"])
        assert said.exit_code == 2
        assert "name the directory that --state-dir named" in said.output


async def test_a_closed_tab_is_no_error(tmp_path, caplog):
    run_dir = await mixed_run(tmp_path / "run")
    async with view(run_dir).serving() as address:
        async with aiohttp.ClientSession() as session, session.get(f"{address}events") as open_tab:
            first = await open_tab.content.readuntil(b"\n\n")
            async with aiohttp.ClientSession() as other, other.get(f"{address}events") as closed_tab:
                await closed_tab.content.readline()
            assert await post(address, b'{"job":"fox","mark":"star"}') == 204
            assert await open_tab.content.readuntil(b"\n\n") != first, "the closed tab was told, too"
        assert await status(address) == 200
    assert caplog.records == []


async def test_marks_are_checked_and_saved_at_once(tmp_path):
    run_dir = await mixed_run(tmp_path / "run")
    async with view(run_dir).serving() as address:
        assert await post(address, b'{"job":"fox","mark":"star","note":"n"}') == 204
        assert read_marks(run_dir)["fox"].mark == "star"
        for body in (b"{", b'{"job":"fox","mark":"love"}', b'{"job":"nobody","mark":"star"}'):
            assert await post(address, body) == 400
        long = json.dumps({"job": "fox", "mark": "keep", "note": "x" * 5000}).encode()
        assert await post(address, long) == 400
        assert await post(address, b"x" * 100_000) in (400, 413)
        assert list(read_marks(run_dir)) == ["fox"]


@in_browser
async def test_a_clip_goes_on_playing_when_its_comparison_is_drawn_anew(tmp_path):
    run_dir = await mixed_run(tmp_path / "run")
    async with view(run_dir).serving() as address, browser() as page:
        await page.call("Page.navigate", url=f"{address}#tab=compare")
        await page.until("document.documentElement?.dataset.ready")
        await page.js("window.clip = document.querySelector('.matrix video'); clip.play()")
        await page.js("window.tile = clip.closest('.tilelet')")
        await page.until("clip.currentTime > 0.1")
        made = RunMaker(run_dir)
        await made.done(job("later", prompt="a later one"), picture("l"), extension=".png")
        await made.end()
        await page.until("document.querySelector('.tilelet') && !tile.isConnected")
        await page.js("new Promise((ok) => setTimeout(ok, 50))")
        assert await page.js("document.querySelector('.matrix video') === clip && !clip.paused")


@in_browser
async def test_the_page_follows_a_run_and_marks_survive_a_reload_and_a_kill(tmp_path):
    """A run and a view as processes; the view is killed, and started again."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}

    async def start(*words, **more):
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "batcher", *words, cwd=tmp_path, env=env, **more
        )

    (tmp_path / "m.yaml").write_text(
        "model: blackforestlabs/flux-1/dev/text-to-image\njobs:\n- prompt: 'n {{ n }}'\n  matrix: {n: ["
        + ", ".join(map(str, range(60)))
        + "]}\n"
    )
    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    run = await start("run", "m.yaml", "--sandbox", "-c", "1", "-o", "out", **quiet)
    try:
        for _ in range(300):
            if (tmp_path / "out" / "ledger.jsonl").exists():
                break
            await asyncio.sleep(0.1)
        await _follow(tmp_path, start)
    finally:
        if run.returncode is None:
            run.terminate()
        await run.wait()


async def _follow(tmp_path, start):
    starred = "document.querySelectorAll('.m-star[aria-pressed=true]').length === 1"
    outputs = "parseInt(document.getElementById('tally').textContent)"
    viewer = await start("view", "out", "--no-browser", stdout=asyncio.subprocess.PIPE)
    address = (await viewer.stdout.readline()).decode().strip()
    try:
        async with browser() as page:
            await page.call("Page.navigate", url=address)
            await page.until("document.documentElement?.dataset.ready")
            await page.until(f"{outputs} >= 1", 25)
            first = await page.js(outputs)
            await page.until(f"{outputs} > {first}", 25)
            await page.js("document.querySelector('.card').focus()")
            await page.key("s")
            await page.until(starred)
            for _ in range(100):
                if read_marks(tmp_path / "out"):
                    break
                await asyncio.sleep(0.05)
            assert [mark.mark for mark in read_marks(tmp_path / "out").values()] == ["star"]
            viewer.send_signal(signal.SIGKILL)
            await viewer.wait()
            await page.until("document.getElementById('live').textContent === 'Not connected'")
            assert len((tmp_path / "out" / "marks.jsonl").read_text().splitlines()) == 1
            viewer = await start("view", "out", "--no-browser", stdout=asyncio.subprocess.PIPE)
            address = (await viewer.stdout.readline()).decode().strip()
            await page.call("Page.navigate", url=address)
            await page.until("document.documentElement?.dataset.ready")
            await page.until(starred)
    finally:
        if viewer.returncode is None:
            viewer.terminate()
            assert await viewer.wait() == 0

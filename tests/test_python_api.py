"""From Python: jobs that the program holds, results as they come, and notebooks."""

import asyncio
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import batcher
from batcher import CredentialsError, IncompleteError, StoppedError, UsageError
from batcher.app.observers import Guarded
from batcher.errors import ManifestError
from batcher.ledger.summary import Summary
from batcher.ports import listens
from batcher.schema.dialect import json_value
from batcher.schema.spec import KLING
from tests.support.api_server import environment
from tests.support.faults import SlowServer

MODEL = KLING.model_id
QUICK = {"sandbox": True, "sandbox_speed": 200, "poll": 0.02, "model": MODEL}
ROWS = [
    {"id": f"j{n}", "prompt": f"cat {n}", "image_url": f"https://example.com/{n}.png"} for n in range(3)
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def frame():
    import pandas as pd

    table = pd.DataFrame(ROWS)
    table["duration"] = [5, None, 10]
    table["meta"] = [{"split": "a"}, None, {"split": "b"}]
    return table


def numpy_rows():
    import numpy as np

    return [row | {"duration": np.int64(5)} for row in ROWS]


JOBS = {
    "list": lambda: ROWS,
    "generator": lambda: (row for row in ROWS),
    "data frame": frame,
    "numpy": numpy_rows,
    "path": lambda: Path("m.jsonl"),
}


@pytest.mark.parametrize("kind", JOBS)
async def test_jobs_may_be_whatever_a_program_holds(kind, here):
    (here / "m.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    summary = await batcher.run(jobs=JOBS[kind](), output="output/x", **QUICK)
    assert (summary.done, summary.total) == (3, 3)
    assert {path.stem for path in Path("output/x/media").iterdir()} == {"j0", "j1", "j2"}
    again = await batcher.run(jobs=JOBS[kind](), output="output/x", **QUICK)
    assert (again.done, again.submitted_now) == (3, 0)


async def test_cells_of_a_data_frame_keep_their_types_and_empty_ones_are_absent(here):
    await batcher.run(jobs=frame(), output="x", **QUICK)
    lines = [json_value(line) for line in Path("x/ledger.jsonl").read_bytes().splitlines()]
    bought = {line["job"]: line for line in lines if line["event"] == "submitting"}
    assert [bought[f"j{n}"]["input"].get("duration") for n in range(3)] == [5, None, 10]
    assert [bought[f"j{n}"].get("meta") or None for n in range(3)] == [
        {"split": "a"},
        None,
        {"split": "b"},
    ]


async def test_local_media_of_jobs_are_found_from_the_working_directory(here):
    (here / "in").mkdir()
    (here / "in/cat.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    jobs = [{"prompt": "a cat", "image_url": Path("in/cat.png")}]
    assert (await batcher.run(jobs=jobs, output="x", **QUICK)).done == 1


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ({"prompt": "a"}, "jobs: a list, a data frame"),
        (3, "jobs: a list, a data frame"),
        ([3], "jobs, row 1: int is no row"),
        ([ROWS[0], {"image_url": object()}], "jobs, row 2: object can't be sent"),
        ([{"prompt": b"a cat"}], "jobs, row 1: prompt: b'a cat' are bytes; give text"),
        ([{"meta": {"a": [1, bytearray(b"x")]}}], "jobs, row 1: meta.a: b'x' are bytes"),
        ([ROWS[0], {"prompt": "a", "cfg_scale": float("inf")}], "jobs, row 2: cfg_scale: inf is not a"),
        ([{"images": {"a.png", "b.png"}}], "jobs, row 1: images: a set has no order; give a list"),
        ([{"a": np.float32("-inf")}], "jobs, row 1: a: -inf is not a finite number"),
        ([{"a": np.array([[1, np.inf]])}], "jobs, row 1: a: inf is not a finite number"),
    ],
)
async def test_what_are_no_jobs_is_told_with_the_row(jobs, said):
    with pytest.raises(UsageError, match=said):
        await batcher.run(jobs=jobs, output="x", **QUICK)
    assert not Path("x").exists()


async def test_of_jobs_of_a_program_no_file_is_named_that_does_not_outlast_it():
    with pytest.raises(ManifestError) as caught:
        await batcher.run(jobs=[ROWS[0], ROWS[1] | {"sed": 1}], output="x", **QUICK)
    assert str(caught.value).startswith("jobs, row 2: sed: unknown field")
    assert "rows.jsonl" not in str(caught.value)
    await batcher.run(jobs=ROWS, output="x", max_cost=1.5, **QUICK)
    opening = json_value(Path("x/ledger.jsonl").read_bytes().splitlines()[0])
    assert opening.get("asked") is None


async def test_a_job_of_lists_alone_is_one_job(here):
    for name in "abcd":
        (here / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + name.encode() * 64)
    job = {"image_urls": ["a.png", "b.png"], "images": ["c.png", "d.png"]}
    model = {"model": "bytedance/seedream-4-5/edit", "set": {"prompt": "a cat"}, "extra": "image_urls"}
    assert (await batcher.plan(jobs=[job], output="x", sandbox=True, **model)).total == 1


async def test_jobs_need_a_run_directory_and_either_jobs_or_a_manifest_is_given():
    with pytest.raises(UsageError, match="jobs need output="):
        await batcher.run(jobs=ROWS, **QUICK)
    for wrong in ({}, {"manifest": "m.yaml", "jobs": ROWS}):
        with pytest.raises(TypeError, match="either a manifest or jobs"):
            await batcher.run(**wrong, **QUICK)


async def test_results_come_as_jobs_end_and_are_durable_by_then():
    seen = []
    async for job in batcher.stream(jobs=ROWS, output="x", **QUICK):
        assert '"done","at":"' in Path("x/ledger.jsonl").read_text().replace(": ", ":")
        assert all(Path("x", file.path).is_file() for file in job.files)
        seen.append((job.job, job.state, len(job.files), job.input["prompt"]))
    assert sorted(seen) == [(f"j{n}", "done", 1, f"cat {n}") for n in range(3)]
    assert [job async for job in batcher.stream(jobs=ROWS, output="x", **QUICK)] == []


SELVES = {
    "a folder": ("shots", {}),
    "the working directory": (".", {}),
    "any depth": ("**/*.png", {}),
    "a pattern": ("*/[!q]*/*.png", {"output": "out"}),
    "an input": ("m.yaml", {}),
    "an include": ("all.yaml", {}),
}


@pytest.mark.parametrize("kind", SELVES)
async def test_results_of_a_run_are_no_inputs_of_the_next_one_whatever_lists_them(kind, here):
    """Else the same command would buy more with each run."""
    manifest, options = SELVES[kind]
    for name in ("shots/a.png", "shots/in/b.png"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(b"\x89PNG\r\n\x1a\n" + name.encode() + bytes(64))
    job = {"images": {"glob": "**/*.png"}}
    (here / "m.yaml").write_text(json.dumps({"jobs": [job]}))
    (here / "all.yaml").write_text(json.dumps({"jobs": [{"from": "."}]}))
    output = {"output": "shots/out", **options}
    quick = QUICK | output | {"model": "bytedance/seedream-4-5/edit", "set": {"prompt": "a cat"}}
    first = await batcher.run(manifest, **quick)
    assert first.done == first.submitted_now > 0
    assert list((here / output["output"] / "media").glob("*.png"))
    again = await batcher.run(manifest, **quick)
    assert (again.total, again.submitted_now, again.orphaned) == (first.total, 0, 0)


@pytest.mark.parametrize(("cancels", "states"), [(1, {"submitted": 4}), (2, {"unknown": 4})])
async def test_a_cancelled_run_awaits_the_answers_to_its_posts_unless_it_is_cancelled_again(
    here, monkeypatch, cancels, states
):
    server = SlowServer(post_delay_s=0.5 if cancels == 1 else 60.0, generate_s=60.0).start()
    for name, value in environment(server, here).items():
        monkeypatch.setenv(name, value)
    try:
        run = batcher.run(
            jobs=ROWS * 2, per_row=True, output="x", model=MODEL, assume_price=1, max_cost=4
        )
        task = asyncio.create_task(run)
        while len(server.posts) < 4:
            await asyncio.sleep(0.01)
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await task
        status = batcher.status("x")
        assert not status.live
        assert {state: getattr(status, state) for state in ("submitted", "unknown")} == {
            "submitted": 0, "unknown": 0
        } | states  # fmt: skip
    finally:
        server.stop()


async def test_leaving_a_stream_stops_the_run_and_frees_its_directory():
    slow = QUICK | {"sandbox_speed": 20, "concurrency": 1}
    results = batcher.stream(jobs=ROWS, output="x", **slow)
    async for job in results:
        assert job.state == "done"
        break
    await results.aclose()
    status = batcher.status("x")
    assert not status.live
    assert status.done < 3
    assert (await batcher.run(jobs=ROWS, output="x", **QUICK)).done == 3


async def test_a_stream_ends_with_the_reason_why_its_run_stopped_early():
    seen = []
    with pytest.raises(StoppedError, match="max-cost"):
        async for job in batcher.stream(jobs=ROWS, output="x", max_cost=3, **QUICK):
            seen.append(job.job)
    assert len(seen) == 2


async def test_an_early_stop_is_in_the_summary_as_the_docstring_says():
    summary = await batcher.run(jobs=ROWS, output="x", max_cost=3, **QUICK)
    assert (summary.exit_code, summary.done) == (3, 2)
    with pytest.raises(StoppedError, match="max-cost"):
        batcher.raise_if_incomplete(summary)
    assert "``exit_code`` is 3 and ``stopped`` gives" in batcher.run.__doc__


def test_what_a_summary_says_can_be_raised():
    def summary(**fields):
        counts = dict.fromkeys(inspect.signature(Summary).parameters, 0)
        return Summary(**{**counts, "stopped": None, "total": 3, "done": 2, **fields})

    batcher.raise_if_incomplete(summary(exit_code=0))
    with pytest.raises(IncompleteError, match="1 of 3"):
        batcher.raise_if_incomplete(summary(exit_code=1))
    with pytest.raises(CredentialsError, match="no token"):
        batcher.raise_if_incomplete(summary(exit_code=77, stopped="no token"))


def test_the_package_lists_its_functions_without_importing_them():
    program = (
        "import sys, batcher; names = dir(batcher);"
        "assert 'aiohttp' not in sys.modules and 'batcher.api' not in sys.modules;"
        "print({'run', 'plan', 'status', 'stream', 'raise_if_incomplete'} <= set(names))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True"]


def notebook(*cells):
    import nbformat

    made = nbformat.v4.new_notebook()
    made.cells = [nbformat.v4.new_code_cell(text) for text in cells]
    return made


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


NOTEBOOK = [
    "import batcher, warnings",
    f"options = dict(output='x', model={MODEL!r}, sandbox=True, poll=0.02)",
    "await batcher.run('m.jsonl', sandbox_speed=1, **options)",
    "print(batcher.status('x').live)",
    "summary = await batcher.run('m.jsonl', sandbox_speed=500, progress=True, **options)\nprint(summary.done)",
]


@pytest.mark.filterwarnings("ignore")
async def test_a_notebook_runs_a_batch_and_an_interrupted_cell_frees_the_run(here):
    (here / "m.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    from nbclient import NotebookClient

    made = notebook(*NOTEBOOK)
    client = NotebookClient(
        made, timeout=90, allow_errors=True, resources={"metadata": {"path": str(here)}}
    )
    async with client.async_setup_kernel():
        for number, cell in enumerate(made.cells):
            executing = asyncio.ensure_future(client.async_execute_cell(cell, number))
            if "sandbox_speed=1" in cell.source:
                ledger = here / "x/ledger.jsonl"
                while not (ledger.exists() and '"submitted"' in ledger.read_text()):
                    await asyncio.sleep(0.05)
                await client.km.interrupt_kernel()
            await executing
    _, _, interrupted, status, finished = made.cells
    assert interrupted.outputs[-1]["ename"] in ("CancelledError", "KeyboardInterrupt")
    assert printed(status) == "False\n"
    assert [one["text"] for one in finished.outputs if one.get("name") == "stdout"][-1] == "3\n"
    # a widget if ipywidgets is installed, else text
    assert "3/3" in json.dumps(client.widget_state) + printed(finished), "no progress bar"


@pytest.mark.parametrize("method", ["started", "changed", "event", "call", "warn", "finished"])
async def test_an_observer_that_raises_ends_no_run(method):
    """What it was told of may have been paid for, and not be on disk yet."""
    told = []

    def fail(_):
        raise RuntimeError("mine")

    observer = SimpleNamespace(**{"warn": told.append, method: fail})
    summary = await batcher.run(jobs=ROWS, output="out", observer=observer, **QUICK)
    assert (summary.done, summary.exit_code) == (3, 0)
    assert f"the observer's {method}() failed: RuntimeError: mine" in told or method == "warn"


def test_an_observer_that_ignores_events_and_calls_costs_nothing():
    guarded = Guarded(SimpleNamespace(changed=print))
    assert listens(guarded, "changed")
    assert not listens(guarded, "event")
    assert not listens(guarded, "call")

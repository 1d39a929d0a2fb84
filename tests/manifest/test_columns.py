"""Rows that are checked by column, many at a time, are the jobs that each would be alone."""

import itertools
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.dataset.metadata_rows import ColumnTypes
from batcher.errors import ManifestError
from batcher.ledger.snapshot import Snapshot
from batcher.manifest import files
from batcher.manifest.check import Checker
from batcher.manifest.csv_files import Table
from batcher.manifest.expand import Scope
from batcher.manifest.load import SHORT_CHARS, open_manifest
from batcher.manifest.media import are_public_urls, is_public_url
from batcher.manifest.rows import ManifestChanged
from batcher.manifest.tally import ManifestTally
from batcher.options.facts import Overrides, Policy, Selection
from batcher.planning.media_urls import UrlWatch
from batcher.planning.plan import make_plan
from batcher.planning.survey import Estimate, Survey
from batcher.schema.spec import ModelSpec
from tests.support.manifest_files import PNG, URL, read_text, write

FIELDS = {
    "prompt": {"type": "string", "maxLength": 60},
    "image_url": {"type": "string"},
    "mask": {"type": "string"},
    "duration": {"type": "integer", "minimum": 1, "maximum": 10, "default": 5},
    "cfg": {"type": "number"},
    "loop": {"type": "boolean"},
    "numSteps": {"type": "integer"},
}


def spec(model, price_usd, fields):
    schema = {"required": ["prompt"], "properties": fields}
    entry = {"model_id": model, "base_price_usd": price_usd, "price_unit": "second"}
    return ModelSpec.from_catalogue({**entry, "input_schema": schema})


SPECS = {
    "m": spec("m", 0.1, FIELDS),
    "n": spec("n", 0.3, {**FIELDS, "images": {"type": "array", "items": {"type": "string"}}}),
}
HEADERS = [
    *("prompt", "image_url", "mask", "duration", "cfg", "loop", "numsteps", "Num Steps", "images"),
    *("id", "model", "meta.split", "meta.n:int", "vars.x", "promt", "", "repeat", "duration:int"),
]
PLAIN = ["prompt", "image_url", "duration", "cfg", "meta.split", "loop", "numsteps", "id"]
CELLS = [
    *(
        "",
        "",
        " ",
        "a cat",
        "A cat",
        "a" * 70,
        "5",
        "05",
        "5.0",
        "1e1",
        "0,5",
        " 7 ",
        "99",
        "true",
        "No",
    ),
    *(
        "é",
        "caf\u00c3\u00a9",
        "\u00a0",
        "\u4e00\u4e01",
        "\ufeffa",
        "\u00bfa",
        "x\r\ny",
        "x\ny",
        'say "a"',
        ' "b"',
    ),
    *(
        "nan",
        "None",
        "#REF!",
        "#\u00a1VALOR!",
        "=A1",
        "{{ x }}",
        "{",
        "[1]",
        "cat.png",
        "gone.png",
        "a, b",
    ),
    *(
        URL,
        f"{URL}?a=1",
        f"{URL}?X-Amz-Signature=c&X-Amz-Date=b",
        f"{URL},{URL}",
        "https://10.0.0.1/a.png",
    ),
    *("h", "data:x", "m", "n", "x-1", "X-1"),
]
A_CELL = st.sampled_from(CELLS)
LIKELY = {
    "prompt": ["a cat", "a dog", "h", "", "\u4e00\u4e01", "x\ny", 'say "a"'],
    "image_url": [URL, f"{URL}?a=1", ""],
    "duration": ["5", "10", "", " 7 "],
    "model": ["m", "n"],
    "id": ["x-1", "x-2", ""],
}


def a_cell(header):
    return st.one_of(st.sampled_from(LIKELY.get(header, ["5", "1", "", "true"])), A_CELL)


def rows_under(headers):
    row = st.tuples(*map(a_cell, headers))
    ragged = st.one_of(st.none(), st.none(), st.none(), st.integers(0, len(headers) + 1))
    return st.tuples(st.just(headers), st.lists(st.tuples(row, ragged, st.booleans()), max_size=14))


def some_of(headers):
    return st.lists(st.sampled_from(headers), min_size=1, max_size=6, unique=True).flatmap(rows_under)


TABLES = st.one_of(some_of(PLAIN), some_of(PLAIN), some_of(HEADERS))
OVERRIDES = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["m", "m", "m", "n", "unknown", None]),
        "vars": st.sampled_from([{}, {}, {}, {"x": "a"}]),
    },
    optional={
        "per_row": st.booleans(),
        "set": st.dictionaries(st.sampled_from(["duration", "loop", "prompt"]), A_CELL, max_size=2),
    },
)
LAYERS = [
    "",
    "model: n\n",
    "defaults: {duration: 7, cfg: 0.5}\n",
    "meta: {a: b}\n",
    "vars: {x: y}\n",
    "repeat: 2\n",
]


def as_text(table):
    headers, rows = table
    lines = [",".join(headers)]
    for cells, width, spaced in rows:
        cut = [*cells, "more"][: len(cells) if width is None else width]
        lines.append((", " if spaced else ",").join(map(quoted, cut)))
    return "\n".join(lines) + "\n"


def quoted(cell):
    return '"' + cell.replace('"', '""') + '"' if set(cell) & set(',"\r\n') else cell


def one_pass(manifest, earlier=None):
    tally = ManifestTally()
    survey, columns = Survey(Estimate(SPECS), UrlWatch()), ColumnTypes()
    jobs, problem = [], None

    def seen():
        for block in manifest.blocks(SPECS, tally, earlier):
            for job in block:
                types = [(name, type(value)) for name, value in job.input.items()]
                jobs.append((job, types, [*job.meta]))
            yield block

    steps = make_plan(columns.watch(seen()), Snapshot(), Selection(), Policy(), survey.prices_usd)
    plan = None
    try:
        while True:
            next(steps)
    except StopIteration as ended:
        plan = ended.value
    except ManifestError as error:
        problem = error.problems, error.total
    return tally, jobs, problem, plan, survey.estimate.lines, survey.urls, columns.types


def everything(path, overrides):
    """What two passes find, and the models."""
    try:
        manifest = open_manifest(path, Overrides(**overrides))
    except ManifestError as error:
        return error.problems
    first = one_pass(manifest)
    return first, one_pass(manifest, first[0])


def by_row():
    return patch.object(Scope, "is_uniform", property(lambda _: False))


def assert_same(folder, name, overrides):
    by_column = everything(folder / name, overrides)
    with by_row():
        assert everything(folder / name, overrides) == by_column


@pytest.mark.parametrize("header", PLAIN)
@pytest.mark.parametrize(
    "layer", ["", "vars: {x: y}\n", "model: n\n", "defaults: {duration: 7, prompt: b}\n"]
)
def test_each_cell_is_the_same_by_column_and_by_row(tmp_path, header, layer):
    headers = list(dict.fromkeys(["prompt", header]))
    rows = [(f"dog {number}", cell)[-len(headers) :] for number, cell in enumerate(CELLS)]
    rows += [
        headers,
        ["dog 3"],
        ["dog 3", "", ""],
        ["dog", "5", "6"],
        ["dog 3", CELLS[3]][-len(headers) :],
    ]
    write(tmp_path, "cat.png", PNG)
    write(tmp_path, "a.csv", as_text((headers, [(row, None, False) for row in rows])))
    write(tmp_path, "a.yaml", f"{layer}jobs: [from: a.csv]\n")
    assert_same(tmp_path, "a.yaml" if layer else "a.csv", {"model": "m"})


@settings(max_examples=150)
@given(TABLES, TABLES, OVERRIDES, st.lists(st.sampled_from(LAYERS), max_size=3), st.integers(1, 20))
def test_a_table_has_the_same_jobs_prices_and_problems_by_column_and_by_row(
    table, other, overrides, layers, lines_at_once
):
    with tempfile.TemporaryDirectory() as folder, ExitStack() as patches:
        patches.enter_context(patch.object(files, "LINES_BETWEEN_CHECKS", lines_at_once))
        write(Path(folder), "cat.png", PNG)
        write(Path(folder), "b.csv", as_text(other).encode("utf-8-sig"))
        path = write(Path(folder), "a.csv", as_text(table))
        if layers:
            head = "".join(dict.fromkeys(layers))
            path = write(
                Path(folder), "a.yaml", f"{head}jobs: [from: a.csv, from: b.csv, prompt: a cat]\n"
            )
        assert_same(Path(folder), path.name, overrides)


@contextmanager
def rows_read_alone():
    """The lines of the rows of tables that are read row by row meanwhile."""
    one_row, read = Table.row, []

    def noted(table, line, cells):
        read.append(line)
        return one_row(table, line, cells)

    with patch.object(Table, "row", noted):
        yield read


def test_only_odd_rows_are_read_row_by_row_in_their_place(tmp_path):
    lines = [f'"cat {number}, low",{URL},{number % 10 + 1}' for number in range(600)]
    lines[100] = f"cat {{{{ x }}}},{URL},1"
    lines[400] = f"cat,{URL},none"
    lines[401] = f"{lines[401]},more"
    lines[402] = '"two\nlines",,'
    with rows_read_alone() as read:
        found = read_text(
            tmp_path, "a.csv", "prompt,image_url,duration\n" + "\n".join(lines), SPECS, model="m"
        )
    assert read == [102, 402, 403]
    assert (len(found.jobs), found.tally.rows, found.tally.invalid) == (597, 600, 3)
    assert [job.source.line for job in found.jobs[398:401]] == [401, 404, 406]


def test_a_change_of_the_file_is_noticed_after_the_rows_that_were_read_before_it(tmp_path):
    path = write(tmp_path, "a.csv", "prompt\n" + "a cat\n" * 3)
    jobs = open_manifest(path, Overrides(model="m", per_row=True)).jobs(SPECS, ManifestTally())
    next(jobs)
    write(tmp_path, "a.csv", "prompt\n" + "a dog\n" * 4)
    assert [next(jobs).input["prompt"] for _ in range(2)] == ["a cat"] * 2
    with pytest.raises(ManifestChanged):
        next(jobs)


def test_ids_in_a_table_are_checked_by_column_too(tmp_path):
    lines = [f"cat {number},job-{number},{number % 10 + 1}" for number in range(300)]
    lines[7], lines[8], lines[9] = "cat 7,,1", "cat 8, job-8 ,1", "cat 9,job 9,1"
    lines[299] = "cat 299,JOB-5,1"
    with rows_read_alone() as read:
        found = read_text(tmp_path, "a.csv", "\n".join(["prompt,id,duration", *lines]), SPECS, model="m")
    assert read == [10, 11, 301], "a blank, a bad id, and a problem"
    assert [problem.split(": ")[1] for problem in found.tally.problems] == ["id", "id"]
    ids = [job.id for job in found.jobs]
    assert ids[:9] == [f"job-{n}" for n in range(7)] + [found.jobs[7].id, "job-8"]
    assert [job.explicit for job in found.jobs[6:10]] == [True, False, True, True]
    assert (ids[7][:6], len(ids)) == ("cat-7-", 298)


MANY = "prompt,image_url\n" + "".join(f"cat {number},{URL}?a={number}\n" for number in range(600))


def test_jobs_of_a_block_are_made_at_once_if_all_are_new(tmp_path):
    one_job, one_by_one = Checker.fitted_job, []

    def noted(checker, fitted, source, scope):
        one_by_one.append(source.line)
        return one_job(checker, fitted, source, scope)

    with patch.object(Checker, "fitted_job", noted):
        found = read_text(tmp_path, "a.csv", f"{MANY}cat 3,{URL}?a=3\n", SPECS, model="m")
    assert one_by_one == [*range(513, 603)], "only those of the block with the duplicate"
    assert [job.source.line for job in found.jobs] == [*range(2, 602)]
    assert found.tally.repeated[0].first == f"{tmp_path / 'a.csv'}:5"


def test_rows_of_one_job_have_their_own_ids_in_each_pass_if_they_are_counted_by_row(tmp_path):
    write(tmp_path, "a.csv", "prompt\n" + "a cat\na dog\na cat\n" * 200)
    assert_same(tmp_path, "a.csv", {"model": "m", "per_row": True})
    manifest = open_manifest(tmp_path / "a.csv", Overrides(model="m", per_row=True))
    first = one_pass(manifest)
    again = one_pass(manifest, first[0])
    assert [job.id for job, *_ in again[1]] == [job.id for job, *_ in first[1]]
    assert len({job.id for job, *_ in first[1]}) == 600


def test_ids_that_can_not_name_files_are_told_row_by_row(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsencode", lambda text: text.encode("ascii"))
    lines = [f"кот {number}" if number in (5, 300) else f"cat {number}" for number in range(400)]
    found = read_text(tmp_path, "a.csv", "\n".join(["prompt", *lines]), SPECS, model="m")
    assert [job.source.line for job in found.jobs] == [n + 2 for n in range(400) if n not in (5, 300)]
    assert [problem.split(": ")[1] for problem in found.tally.problems] == ["id", "id"]


def test_single_jobs_come_together_unless_they_are_large(tmp_path):
    long = "a" * (SHORT_CHARS + 1)
    rows = [{"prompt": f"cat {n}", "duration": 5} for n in range(150)]
    rows[10]["prompt"] = rows[90]["negative_prompt"] = long
    rows[12]["meta"] = {"tags": ["a"]}
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    write(tmp_path, "a.jsonl", lines)
    ids = b"".join(b"%d,a%99d\n" % (n, n) for n in range(300))
    write(tmp_path, "b.csv", b"id,prompt\n" + ids + b"300,\0\n")
    path = write(tmp_path, "a.yaml", "model: x\njobs: [from: a.jsonl, from: b.csv]")
    blocks = []
    with pytest.raises(ManifestError):
        for block in open_manifest(path).blocks({}, ManifestTally()):
            blocks.append([job.source.line for job in block])
    lines = [*range(1, 151), *range(2, 302)]
    assert [*itertools.chain(*blocks)] == lines, "an error comes after the jobs before it"
    assert [len(block) for block in blocks] == [11, 2, 64, 14, *[64] * 5, 39]


def test_a_column_of_urls_is_public_exactly_if_each_cell_is():
    urls = [URL, f"{URL}?a=1", "https://b.example", "https://b.example/https://c", f"{URL} ", f"{URL}\n"]
    urls += ["http://b.example/a", "HTTPS://b.example/a", "https://10.0.0.1/a", "https://", "", "a://b"]
    for one, other in itertools.product(urls, repeat=2):
        each = all(is_public_url(url) and "://" not in url[8:] for url in (one, other))
        assert are_public_urls([one, other]) <= each
    assert are_public_urls(urls[:3] * 2)

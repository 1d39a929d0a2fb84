"""Manifests that mean harm: refused with a line each, quickly and in little memory, or taken as plain text."""

import json
import resource
import subprocess
from pathlib import Path

import pytest

from batcher.jobs.job import explicit_id_problem
from batcher.manifest.tally import ALIKE_SHOWN
from tests.support.api_server import command, in_background, run_command
from tests.support.faults import KLING, SlowServer, ledger, run

IMAGE = "https://example.com/a.png"
MEMORY_BYTES = 700 << 20


@pytest.fixture
def server():
    served = SlowServer(generate_s=0.0).start()
    yield served
    served.stop()


def planned(tmp_path, name, *arguments):
    """``batcher plan`` on a file, within MEMORY_BYTES."""
    with in_background(
        None,
        tmp_path,
        command("plan", name, "--model", KLING, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, err, out


BAD_IDS = [
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "..",
    ".hidden",
    "-rf",
    "a b",
    "a\\b",
    "C:x",
    "a\nb",
    "ü",
    "x" * 101,
    "a\x1b[2J",
]


def test_ids_that_are_no_plain_file_names_are_refused_with_a_suggestion(server, tmp_path):
    rows = [json.dumps({"id": bad, "prompt": "a", "image_url": IMAGE}) for bad in BAD_IDS]
    (tmp_path / "m.jsonl").write_text("\n".join(rows) + "\n")
    refused = run(server, tmp_path, "m.jsonl", "--model", KLING)
    assert refused.returncode == 65
    for number in range(1, ALIKE_SHOWN + 1):
        assert f"m.jsonl:{number}: id: " in refused.stderr
    assert refused.stderr.count("try '") == ALIKE_SHOWN
    rest = len(BAD_IDS) - ALIKE_SHOWN
    assert f"m.jsonl:{ALIKE_SHOWN + 1}: id: the same with other values, in {rest} rows" in refused.stderr
    assert all("; try '" in str(explicit_id_problem(bad)) for bad in BAD_IDS)
    assert "\x1b" not in refused.stderr
    assert not (tmp_path / "output").exists()


def test_ids_that_differ_by_case_only_are_one_name_on_some_disks_and_refused(server, tmp_path):
    (tmp_path / "m.csv").write_text(f"id,prompt,image_url\nHero,a,{IMAGE}\nhero,b,{IMAGE}\n")
    refused = run(server, tmp_path, "m.csv", "--model", KLING)
    assert (refused.returncode, "m.csv:3: id: " in refused.stderr) == (65, True)


ODD_IDS = ["CON", "nul", "aux.txt", "x" * 100, "a.mp4", "ledger.jsonl", "1", "a..b", "a---", "LPT1"]


def test_odd_but_lawful_ids_name_their_files_and_nothing_else(server, tmp_path):
    rows = "".join(f"{name},{name},{IMAGE}\n" for name in ODD_IDS)
    (tmp_path / "m.csv").write_text(f"id,prompt,image_url\n{rows}")
    done = run(server, tmp_path, "m.csv", "--model", KLING, "-c", 10)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "output/m/media").iterdir()} == {
        f"{name}.mp4" for name in ODD_IDS
    }


@pytest.mark.parametrize("name", ["../up", "/abs", "a/b", "", "..", "x" * 300, "a\x00b"])
def test_a_batch_name_can_not_lead_out_of_the_output_folder(tmp_path, name):
    (tmp_path / "m.json").write_text(
        json.dumps({"name": name, "jobs": [{"prompt": "a", "image_url": IMAGE}]})
    )
    code, said, _ = planned(tmp_path, "m.json")
    assert (code, "name" in said) == (65, True)


PRIVATE = [
    "file:///etc/passwd",
    "http://example.com/a.png",
    "https://127.0.0.1/a.png",
    "https://169.254.169.254/a",
    "https://[::1]/a",
    "https://localhost/a",
    "https://10.0.0.1/a",
]


def test_media_that_the_api_could_not_or_should_not_fetch_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("prompt,image_url\n" + "".join(f"a,{url}\n" for url in PRIVATE))
    code, said, _ = planned(tmp_path, "m.csv")
    assert code == 65
    for number in range(2, len(PRIVATE) + 2):
        assert f"m.csv:{number}: image_url: " in said


def test_a_local_file_that_is_no_media_is_not_sent_anywhere(server, tmp_path):
    (tmp_path / "secret.txt").write_text("password")
    (tmp_path / "m.csv").write_text(
        "prompt,image_url\na,secret.txt\nb,/etc/passwd\nc,../../../../etc/passwd\n"
    )
    refused = run(server, tmp_path, "m.csv", "--model", KLING)
    assert refused.returncode == 65
    assert not server.posts


YAML = {
    "a tag": "jobs:\n- prompt: !!python/object/apply:os.system [touch owned]\n",
    "a private tag": "jobs: !include /etc/passwd\n",
    "an alias bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "jobs: *i\n",
    "an alias within itself": "jobs: &a [*a]\n",
    "a million levels": "jobs: " + "[" * 1_000_000 + "\n",
    "a million braces": "jobs: " + "{a: " * 100_000 + "\n",
    "two documents": "jobs: []\n---\njobs: []\n",
    "bytes that are no text": "jobs: \udcff\udcfe\n",
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_yaml_that_is_more_than_data_is_refused_with_its_line(tmp_path, text):
    (tmp_path / "m.yaml").write_bytes(text.encode(errors="surrogateescape"))
    code, said, _ = planned(tmp_path, "m.yaml")
    assert code == 65
    assert "m.yaml:" in said
    assert not (tmp_path / "owned").exists()


def test_a_matrix_that_explodes_is_refused_before_it_is_unfolded(tmp_path):
    axes = {
        name: list(range(100)) for name in ("duration", "cfg_scale", "negative_prompt", "aspect_ratio")
    }
    (tmp_path / "m.json").write_text(
        json.dumps({"matrix": axes, "jobs": [{"prompt": "a", "image_url": IMAGE, "repeat": 1000}]})
    )
    code, said, _ = planned(tmp_path, "m.json")
    assert (code, "more than" in said) == (65, True)


def test_a_csv_with_a_million_columns_is_refused_at_once(tmp_path):
    (tmp_path / "m.csv").write_text(
        ",".join(f"c{n}" for n in range(1_000_000)) + "\n" + "," * 999_999 + "\n"
    )
    code, said, _ = planned(tmp_path, "m.csv")
    assert (code, "columns" in said) == (65, True)


@pytest.mark.parametrize(
    ("piece", "quotes"),
    [(b"x" * 2, (b"", b"")), (b"x\n", (b'"', b'"')), (b"x,", (b'"', b""))],
    ids=["bare", "lines", "unclosed"],
)
def test_a_csv_cell_of_100_megabytes_is_refused_at_once(tmp_path, piece, quotes):
    cell = (piece * (50 << 20)).join(quotes)
    (tmp_path / "m.csv").write_bytes(b"prompt,image_url\n" + cell + b",https://example.com/a.png\n")
    code, said, _ = planned(tmp_path, "m.csv")
    assert code == 65
    assert "m.csv:2: " in said
    assert len(said) < 2000


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        '{"jobs":' * 200_000,
        '{"jobs": [' + "1e999999" + "]}",
        '{"jobs": [{"prompt": "\\ud800"}]}',
        '{"jobs": [{"prompt": "a", "prompt": "b"}]}',
        '{"jobs": [{"seed": ' + "9" * 5000 + "}]}",
    ],
    ids=range(6),
)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_json_that_is_out_of_bounds_is_refused_with_its_line(tmp_path, suffix, text):
    (tmp_path / f"m.{suffix}").write_text(text)
    code, said, _ = planned(tmp_path, f"m.{suffix}")
    assert code == 65
    assert f"m.{suffix}:1: " in said


PROMPTS = [
    '=HYPERLINK("http://evil.example","x")',
    "+1+1",
    "@SUM(A1)",
    "-2+3",
    "<script>alert(1)</script>",
    "{% raw %}{# x #}{ y }",
    "${HOME} $(id) `id`",
    "line one\nline two\r\nline three",
    "tab\there",
    "\x1b[31mred\x1b[0m",
    "nul-free \x01\x02",
    "\u202etxet desrever",
    "'; DROP TABLE jobs; --",
    "%s %d {0} \\n",
    "日本語 🐈",
    " spaces around ",
]


def test_prompts_are_sent_and_kept_verbatim_whatever_they_look_like(server, tmp_path):
    (tmp_path / "m.jsonl").write_text(
        "".join(
            json.dumps({"id": f"job-{n}", "prompt": text, "image_url": IMAGE}) + "\n"
            for n, text in enumerate(PROMPTS)
        )
    )
    done = run(server, tmp_path, "m.jsonl", "--model", KLING, "-v", "-c", 20)
    assert done.returncode == 0, done.stderr
    assert sorted(post["prompt"] for post in server.posts) == sorted(PROMPTS)
    run_dir = tmp_path / "output/m"
    assert {one["input"]["prompt"] for one in ledger(run_dir) if one["event"] == "submitting"} == set(
        PROMPTS
    )
    rows = [json.loads(row) for row in (run_dir / "metadata.jsonl").read_text().splitlines()]
    assert {row["prompt"] for row in rows} == set(PROMPTS)
    listed = run_command(None, tmp_path, "status", run_dir, "--list", "done")
    assert {json.loads(row)["input"]["prompt"] for row in listed.stdout.splitlines()} == set(PROMPTS)
    assert "\x1b" not in done.stdout + done.stderr + listed.stdout


def test_a_path_that_is_no_utf8_is_a_path_like_any_other(server, tmp_path):
    folder = Path(bytes(tmp_path).decode() + "/caf\udce9")
    folder.mkdir()
    (folder / "m.csv").write_text(f"prompt,image_url\na,{IMAGE}\n")
    for extra in ([], ["--json"]):
        done = run(server, tmp_path, folder / "m.csv", "--model", KLING, "-o", folder / "out", *extra)
        assert done.returncode == 0, done.stderr
    assert run_command(None, tmp_path, "status", folder / "out", "--json").returncode == 0
    assert len(server.posts) == 1


def test_limits_of_the_tests_own_are_not_the_reason(tmp_path):
    """The memory bound above leaves room for an honest plan."""
    (tmp_path / "m.csv").write_text(f"prompt,image_url\na,{IMAGE}\n")
    assert planned(tmp_path, "m.csv")[0] == 0

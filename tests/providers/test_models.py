"""``models``, ``schema`` and ``init``, and the plan as a page: what one may know before one pays."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from batcher.__main__ import main
from batcher.app.connect import connect
from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.engine.host import Host
from batcher.manifest.editor_schema import manifest_schema
from batcher.options.facts import SandboxOptions
from batcher.providers.catalog import Catalog
from batcher.providers.catalog_cache import CachedEntry, CatalogCache
from batcher.providers.kept import keep_entries, kept_entries
from batcher.providers.model_list import ListingCache
from batcher.sandbox.catalogue import catalogue
from batcher.schema.spec import BUILT_IN, KLING, ModelSpec
from tests.support.api_server import TOKEN, ApiServer

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
SPECS = {
    name: ModelSpec.from_catalogue(model.listing(include_schema=True))
    for name, model in catalogue().items()
}
SHAPES = ["quickstart.yaml", "image-edit.yaml", "text-to-image.yaml", "video-to-video.yaml"]


@pytest.fixture
def server(monkeypatch):
    served = ApiServer(generate_s=0.01)
    served.catalogue = {name: model.listing(include_schema=True) for name, model in catalogue().items()}
    served.start()
    monkeypatch.setenv("RUNCOMFY_MODEL_API_BASE", served.base)
    monkeypatch.setenv("RUNCOMFY_TOKEN", TOKEN)
    yield served
    served.stop()


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def batcher(tmp_path, monkeypatch, capfd):
    """The command line within this process: the same ``main``, without the start of an interpreter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["batcher", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return Result(stop.value.code, *capfd.readouterr())

    return call


@pytest.fixture
def ok(batcher):
    def call(*arguments):
        result = batcher(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return call


class TestModels:
    def test_a_list_is_asked_for_once_and_searched_on_this_side(self, server, ok):
        first = json.loads(ok("models", "image-to-video", "--json"))
        assert [model["model_id"] for model in first["models"]] == [KLING.model_id]
        assert first["source"] == "catalogue"
        again = ok("models", "speech")
        assert "minimax/speech-02" in again
        assert "from the cache" in again
        assert len(server.lookups) == 1
        ok("models", "--refresh")
        assert len(server.lookups) == 2

    def test_one_model_is_shown_readable_also_when_the_api_has_gone(self, server, ok):
        shown = ok("models", "show", KLING.model_id)
        assert "$0.28 per second" in shown
        assert "one of 5, 10, default 5" in shown
        server.stop()
        later = ok("models", "show", KLING.model_id, "--refresh")
        assert "from the cache" in later
        assert "can't be asked" in later
        told = json.loads(ok("models", "show", KLING.model_id, "--json"))
        assert told["source"] == "cache"
        assert told["input_schema"]["required"] == ["prompt", "image_url"]

    def test_without_api_and_cache_there_is_what_is_built_in(self, server, ok, batcher):
        server.stop()
        assert "built in" in ok("models")
        assert "price: unknown" in ok("models", "show", KLING.model_id)
        assert batcher("models", "show", "no/such").returncode == 69

    def test_a_model_that_does_not_exist_and_a_search_without_a_hit(self, server, batcher):
        unknown = batcher("models", "show", "no/such")
        assert (unknown.returncode, "knows no such model" in unknown.stderr) == (65, True)
        assert batcher("models", "zebra").returncode == 1
        assert batcher("models", "show").returncode == 64

    def test_all_vendors_are_searched(self, ok):
        found = json.loads(ok("models", "flux", "--sandbox", "--json"))["models"]
        vendors = {model["model_id"].partition(":")[0] for model in found}
        assert {"fal", "replicate"} < vendors

    def test_a_vendor_that_fails_hides_no_other(self, server, batcher, monkeypatch):
        monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_token_for_nothing")
        monkeypatch.setenv("REPLICATE_API_BASE_URL", "http://127.0.0.1:9")
        told = batcher("models", "image-to-video")
        assert told.returncode == 0
        assert KLING.model_id in told.stdout
        assert "replicate: its models can't be listed" in told.stderr

    async def test_a_broken_list_on_disk_is_asked_for_again(self, tmp_path):
        clock, disk = SystemClock(), LocalDisk()
        async with connect(SandboxOptions(), Host(home=tmp_path), None, spending=False) as site:
            cache = ListingCache(tmp_path, "http://api", disk, clock)
            listed = (await cache.listing(site.catalog())).models
            assert {model["model_id"] for model in listed} == SPECS.keys()
            (file,) = tmp_path.glob("models-*.json")
            file.write_bytes(b"{")
            assert (await cache.listing(site.catalog())).source.origin == "catalogue"
        offline = Catalog(None, CatalogCache(tmp_path, "http://api", disk), clock)
        assert (await cache.listing(offline)).source.origin == "cache"


class TestKept:
    def test_entries_of_several_runs_come_together(self, tmp_path):
        (tmp_path / ".batcher").mkdir()
        disk, now = LocalDisk(), SystemClock().now()
        one, two = CachedEntry(now, {"model_id": "a"}), CachedEntry(now, {"model_id": "b"})
        keep_entries(tmp_path, {"a": one}, disk)
        keep_entries(tmp_path, {"b": two}, disk)
        assert kept_entries(tmp_path, disk) == {"a": one, "b": two}
        (tmp_path / ".batcher/specs.json").write_text("oops")
        assert kept_entries(tmp_path, disk) == {}
        keep_entries(tmp_path / "nowhere", {"a": one}, disk)


def valid(schema, document):
    return [
        f"{list(e.instance_path)}: {e.message}"
        for e in jsonschema_rs.Draft202012Validator(schema).iter_errors(document)
    ]


class TestEditorSchema:
    @pytest.mark.parametrize("name", [*SHAPES, "showcase.yaml"])
    def test_it_takes_the_examples_with_and_without_their_model(self, name):
        document = yaml.safe_load((MANIFESTS / name).read_text())
        defaults = document.get("defaults", {})
        if "aspect_ratio" in defaults:
            defaults["aspect_ratio"] = "1:1"  # YAML 1.1 reads 16:9 as a number
        assert valid(manifest_schema(), document) == []
        assert valid(manifest_schema(SPECS[document["model"]]), document) == []

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"jobs": [{"promt": "a"}]}, "promt"),
            ({"jobs": [{"prompt": "a", "duration": 7}]}, "duration"),
            ({"defaults": {"cfg_scale": 3}, "jobs": []}, "cfg_scale"),
            ({"jobs": [], "job": []}, "job"),
            ({"jobs": [{"repeat": 0}]}, "repeat"),
            ({"jobs": [{"matrix": {"a": []}}]}, "matrix"),
        ],
    )
    def test_mistakes_are_marked(self, change, field):
        assert any(
            field in line for line in valid(manifest_schema(KLING), {"model": KLING.model_id, **change})
        )

    def test_templates_globs_paths_and_other_models_fit(self):
        jobs = [
            {
                "prompt": "a",
                "image_url": {"glob": "photos/*.jpg"},
                "duration": "{{ seconds }}",
                "vars": {"seconds": 5},
            },
            {"prompt": "a", "image_url": "photos/a.jpg", "cfg_scale": None},
            {"model": "other/model", "anything": 1},
            {"from": "pairs.csv", "duration": 10},
        ]
        assert valid(manifest_schema(KLING), {"jobs": jobs}) == []

    @pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
    def test_it_is_a_schema_whatever_the_model(self, spec):
        jsonschema_rs.meta.validate(manifest_schema(spec))

    def test_a_field_that_refers_elsewhere_takes_anything(self):
        schema = {
            "type": "object",
            "properties": {"size": {"anyOf": [{"$ref": "#/$defs/x"}]}},
            "$defs": {"x": {"type": "integer"}},
        }
        assert (
            valid(manifest_schema(ModelSpec("m", "catalogue", schema)), {"jobs": [{"size": "big"}]})
            == []
        )

    def test_the_command_prints_it(self, server, ok):
        assert json.loads(ok("schema"))["required"] == ["jobs"]
        told = json.loads(ok("schema", "--model", KLING.model_id, "--sandbox"))
        assert KLING.model_id in told["title"]


class TestStarter:
    @pytest.mark.parametrize("model", SPECS)
    def test_a_starter_passes_plan_and_its_editor_schema(self, model, tmp_path, ok):
        ok("init", "m.yaml", "--model", model, "--sandbox")
        planned = json.loads(ok("plan", "m.yaml", "--sandbox", "--json"))
        assert (planned["total"], planned["new"]) == (1, 1)
        text = (tmp_path / "m.yaml").read_text()
        assert valid(manifest_schema(SPECS[model]), yaml.safe_load(text)) == []
        assert all(f"{name}:" in text for name in SPECS[model].fields)
        opened = yaml.safe_load(text.replace("\n  # ", "\n  "))  # what its comments offer fits too
        inputs = {**(opened["defaults"] or {}), **_sent(opened["jobs"][0])}
        assert SPECS[model].problems(inputs) == []

    def test_it_works_offline_for_what_is_built_in_and_overwrites_nothing(
        self, server, tmp_path, ok, batcher
    ):
        server.stop()
        ok("init", "--model", KLING.model_id)
        assert batcher("init").returncode == 64
        assert batcher("init", "other.yaml", "--model", "no/such").returncode == 69
        assert not (tmp_path / "other.yaml").exists()


def _sent(job):
    return {name: value for name, value in job.items() if name not in ("id", "meta")}


@pytest.mark.parametrize("name", SHAPES)
def test_the_examples_run_against_the_sandbox(name, ok):
    """Four shapes of input: an image, several images, text alone, a video."""
    told = ok("run", MANIFESTS / name, "--sandbox", "--sandbox-speed", 50, "-c", 24, "--json")
    summary = json.loads(told)
    assert summary["done"] == summary["total"] > 0
    state = ok("status", summary["run_dir"])
    assert "as the API reports" in state


class TestPlanPage:
    def test_every_bucket_has_count_reason_examples_and_price(self, server, tmp_path, ok):
        rows = [{"prompt": f"p{n}", "image_url": f"https://example.com/{n}.png"} for n in range(4)]
        manifest = tmp_path / "m.yaml"
        manifest.write_text(json.dumps({"model": KLING.model_id, "jobs": rows}))
        ok("run", "m.yaml", "--yes")
        changed = [rows[0], rows[0], *[{**row, "prompt": "new"} for row in rows]]
        manifest.write_text(json.dumps({"model": KLING.model_id, "jobs": changed}))
        page = ok("plan", "m.yaml", "--max-cost", 7)
        for line in (
            "4  new: to be submitted  $5.60",
            "1  done",
            "3  no longer in the manifest  $4.20",
            "1  duplicates of other rows: run once",
            "m.yaml:1",
            "Plan: 4 to buy, 0 to watch, 0 to download, 1 done, 0 left alone.",
            "4 × 5 s × $0.28/s = $5.60  " + KLING.model_id,
            "already spent in this run directory $5.60",
            "--max-cost $7.00 has room for $1.40",
            "judged by 4 generations",
            "the API's catalogue",
        ):
            assert line in page

    def test_json_is_complete(self, server, tmp_path, ok):
        signed = "https://files.corp/a.png?Expires=1000&Signature=secret"
        job = {"prompt": "a", "image_url": signed}
        (tmp_path / "m.yaml").write_text(json.dumps({"model": KLING.model_id, "jobs": [job]}))
        text = ok("plan", "m.yaml", "--json", "-c", 4)
        told = json.loads(text)
        buckets = (
            "new",
            "edited",
            "retry",
            "redo",
            "resume",
            "collect",
            "done",
            "failed",
            "unknown",
            "cancelled",
        )
        assert [told[name] for name in buckets] == [1, *[0] * 9]
        assert (told["duplicates"], told["orphaned"], told["estimated_cost_usd"], told["spent_usd"]) == (
            0,
            0,
            1.4,
            0.0,
        )
        (computed,) = told["computed"]
        assert (computed["jobs"], computed["unit_price_usd"], computed["seconds"], computed["usd"]) == (
            1,
            0.28,
            5.0,
            1.4,
        )
        assert (told["estimated_s"], told["concurrency"], told["unchecked"]) == (None, 4, [])
        assert [("private" in w, "expire" in w) for w in told["warnings"]] == [
            (True, False),
            (False, True),
        ]
        assert "secret" not in text

    def test_an_unchecked_model_is_said_to_be_one(self, server, tmp_path, ok):
        server.stop()
        (tmp_path / "m.yaml").write_text("model: some/model\njobs:\n- prompt: a\n")
        page = ok("plan", "m.yaml")
        assert "some/model: NOTHING: no schema of this model is known" in page
        assert "1 × unknown (no price is known)" in page
        assert json.loads(ok("plan", "m.yaml", "--json"))["unchecked"] == ["some/model"]

    def test_media_that_can_not_be_reached_make_it_exit_1(self, server, tmp_path, batcher):
        (tmp_path / "m.yaml").write_text(
            "jobs:\n- prompt: a\n  image_url: https://no-such-host.example/a.png\n"
        )
        result = batcher("plan", "m.yaml", "--model", KLING.model_id, "--check-urls", "--json")
        assert result.returncode == 1
        told = json.loads(result.stdout)["urls"]
        assert (told["checked"], told["bad"]) == (1, 1)
        assert "m.yaml:2: image_url" in told["problems"][0]


def test_the_built_in_spec_agrees_with_the_catalogue():
    assert set(BUILT_IN[KLING.model_id].fields) == set(SPECS[KLING.model_id].fields)

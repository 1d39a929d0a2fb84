"""The body of a POST: inputs as they are, local media inline, nothing over the limit."""

import base64
import hashlib
import json

import pytest

from batcher.jobs.job import LocalMedia
from batcher.providers import json_body as body
from batcher.providers.json_body import MAX_BODY_BYTES, QUICK_CHARS, is_quick, request_body
from tests.support.engine import job

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def media(path, content=PNG):
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return LocalMedia(str(path), f"pictures/{path.name}", digest, len(content), "image/png")


def test_inputs_go_out_with_their_names_types_and_letters():
    inputs = {
        "prompt": "une forêt 🌲 {% raw",
        "duration": 5,
        "cfg": 0.5,
        "loop": True,
        "tags": ["a", 1],
        "o": {"x": None},
    }
    assert json.loads(request_body(job(**inputs))) == inputs


def test_what_belongs_to_us_is_not_sent():
    assert json.loads(request_body(job("cat", prompt="p", meta={"split": "train"}))) == {"prompt": "p"}


def test_a_local_file_goes_inline_as_a_data_uri(tmp_path):
    sent = json.loads(request_body(job(image_url=media(tmp_path / "a.png"))))["image_url"]
    assert sent == "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert str(tmp_path) not in sent


def test_local_files_in_a_list_go_inline_beside_urls(tmp_path):
    images = ["https://example.com/a.png", media(tmp_path / "b.png")]
    sent = json.loads(request_body(job(images=images)))["images"]
    assert sent[0] == images[0]
    assert base64.b64decode(sent[1].partition(",")[2]) == PNG


def test_a_file_that_changed_since_the_plan_is_refused_by_its_name_in_the_manifest(tmp_path):
    local = media(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(PNG[::-1])
    with pytest.raises(ValueError, match=r"^pictures/a\.png changed since the manifest was read"):
        request_body(job(image_url=local))


def test_a_file_that_is_gone_is_an_os_error(tmp_path):
    local = media(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError):
        request_body(job(image_url=local))


def test_the_limit_is_that_of_the_api_and_of_the_whole_body(monkeypatch):
    assert MAX_BODY_BYTES == 64 * 1024 * 1024
    just_right = job(prompt="x" * 100)
    size = len(request_body(just_right))
    monkeypatch.setattr(body, "MAX_BODY_BYTES", size)
    assert len(request_body(just_right)) == size
    with pytest.raises(ValueError, match=f"has {size + 1} bytes, the API takes {size}"):
        request_body(job(prompt="x" * 101))


def test_only_what_is_small_and_needs_no_file_is_made_in_no_time(tmp_path):
    local = media(tmp_path / "a.png")
    assert is_quick(job(prompt="a cat", seed=7, flag=True, images=["https://example.com/a.png"] * 3))
    for slow in (local, [local], "x" * (QUICK_CHARS + 1), ["a"] * 1000, {"deep": "object"}):
        assert not is_quick(job(prompt="a cat", image_url=slow))

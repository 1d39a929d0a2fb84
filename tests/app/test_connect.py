"""Which addresses a run directory is bound to."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from batcher.app.connect import check_same_api
from batcher.disk import LocalDisk
from batcher.errors import LedgerError
from batcher.jobs.lifecycle import SANDBOX_API
from batcher.ledger.ledger import read_snapshot

INTENT = {"event": "submitting", "at": "2026-11-27T09:00:01.000Z", "job": "a", "attempt": 1, "input": {}}
DEFERRED = {"event": "deferred", "at": "2026-11-27T09:00:02.000Z", "job": "a", "attempt": 1}
SUBMITTED = {"event": "submitted", "at": DEFERRED["at"], "job": "a", "attempt": 1, "request_id": "r1"}


@pytest.mark.parametrize("model", ["kling/kling-2-1", "fal:fal-ai/flux/dev"])
@pytest.mark.parametrize(("then", "is_bound"), [((), True), ((DEFERRED,), False), ((SUBMITTED,), True)])
def test_a_run_directory_is_bound_to_an_address_once_a_request_may_have_been_made_there(
    tmp_path, model, then, is_bound
):
    opening = {"event": "run", "run": "r1", "at": "2026-11-27T09:00:00.000Z", "total": 1, "selected": 1}
    typo = {"api": "http://127.0.0.1:1/v1", "other_apis": {"fal": "http://127.0.0.1:1/fal/queue"}}
    text = ""
    for event in (opening | typo, INTENT | {"model": model}, *then):
        text += json.dumps(event | {"group": len(text)}, separators=(",", ":")) + "\n"
    (tmp_path / "ledger.jsonl").write_text(text)
    snapshot = read_snapshot(tmp_path, LocalDisk())
    site = SimpleNamespace(api="https://a.test/v1", other_apis={"fal": "https://fal.test/queue"})
    with pytest.raises(LedgerError, match="can't know them") if is_bound else nullcontext():
        check_same_api(snapshot, site, tmp_path)
    sandbox = SimpleNamespace(api=SANDBOX_API, other_apis={})
    with pytest.raises(LedgerError, match="real API"):
        check_same_api(snapshot, sandbox, tmp_path)


@pytest.mark.parametrize("vendor", ["runcomfy", "fal"])
def test_done_jobs_bind_a_run_directory_to_the_address_of_their_own_vendor_only(tmp_path, vendor):
    model = {"runcomfy": "kling/kling-2-1", "fal": "fal:fal-ai/flux/dev"}[vendor]
    opening = {"event": "run", "run": "r1", "at": "2026-11-27T09:00:00.000Z", "total": 1, "selected": 1}
    here = {"api": "https://a.test/v1", "other_apis": {"fal": "https://fal.test/queue"}}
    completed = DEFERRED | {"event": "completed"}
    done = DEFERRED | {"event": "done", "files": [{"path": "media/a.mp4", "bytes": 1, "sha256": "a"}]}
    text = ""
    for event in (
        opening | here,
        INTENT | {"model": model, "digest": "0123456789abcdef"},
        SUBMITTED,
        completed,
        done,
    ):
        text += json.dumps(event | {"group": len(text)}, separators=(",", ":")) + "\n"
    (tmp_path / "ledger.jsonl").write_text(text)
    snapshot = read_snapshot(tmp_path, LocalDisk())
    snapshot.records.pack("a")
    assert snapshot.records.packed_models() == [model]
    for moved, names in (("api", "runcomfy"), ("other_apis", "fal")):
        elsewhere = {"api": "https://b.test/v1", "other_apis": {"fal": "https://b.test/queue"}}
        site = SimpleNamespace(**here | {moved: elsewhere[moved]})
        with pytest.raises(LedgerError, match="can't know") if names == vendor else nullcontext():
            check_same_api(snapshot, site, tmp_path)

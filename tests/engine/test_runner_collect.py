"""Collecting: what was paid for is fetched, and no failure of a download ever leads to a POST."""

import hashlib

import pytest

from batcher.errors import AuthRefused, DownloadRefused, DownloadStalled, NotFound, Unavailable
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import EventName, Stage, State
from batcher.options.facts import Outage, Policy
from batcher.ports import Phase
from tests.support.engine import Batch, QuickDisk, after, answer, bought, for_ever, in_virtual_time, job

CAT = job("cat")
URL = "https://cdn/r1.mp4"
STALLED = DownloadStalled("no byte for 120 s")


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


async def completed(batch):
    """A request that was seen completed by an earlier run."""
    await batch.hold(*bought(CAT), (EventName.COMPLETED, "cat", {}))
    batch.api.knows("r1", age_s=1000)


async def run(batch, **pace):
    ended = await batch.run([CAT], **pace)
    record = ended.records["cat"]
    assert batch.api.posts == [], "collecting never buys"
    return record


@in_virtual_time
async def test_a_completed_request_is_asked_for_and_downloaded(batch):
    await completed(batch)
    record = await run(batch)
    assert record.state is State.DONE
    assert batch.media == ["cat.mp4"]
    assert (batch.path / "media" / "cat.mp4").read_bytes() == URL.encode()
    assert batch.lines("done")[0]["files"] == [
        {"path": "media/cat.mp4", "bytes": len(URL), "sha256": record.files[0].sha256}
    ]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ([STALLED], "stalled"),
        ([DownloadRefused("evil.example.com is not trusted", "host")], "host"),
        ([DownloadRefused("an HTML page", "not_media")], "not_media"),
    ],
)
@in_virtual_time
async def test_a_download_that_fails_is_recorded_once_and_tried_by_every_later_run(batch, script, code):
    await completed(batch)
    batch.files.scripts[URL] = for_ever(script[0])
    record = await run(batch)
    assert (record.state, record.stage, record.code) == (State.FAILED, Stage.DOWNLOAD, code)
    assert record.message == str(script[0])
    before = batch.ledger_bytes
    await run(batch)
    assert batch.ledger_bytes == before, "the same failure again appends nothing"
    assert batch.files.fetched == [URL, URL]
    batch.files.scripts.clear()
    assert (await run(batch)).state is State.DONE


@in_virtual_time
async def test_a_download_that_fails_in_another_way_says_so(batch):
    await completed(batch)
    batch.files.scripts[URL] = [STALLED, DownloadRefused("an HTML page", "not_media")]
    await run(batch)
    assert (await run(batch)).code == "not_media"


@in_virtual_time
async def test_a_result_that_the_api_no_longer_has_is_expired(batch):
    await completed(batch)
    batch.api.results["r1"] = for_ever(NotFound("404001"))
    record = await run(batch)
    assert (record.stage, record.code) == (Stage.DOWNLOAD, "expired")
    assert "404001" in record.message


@pytest.mark.parametrize("result", [answer(urls=()), answer(Phase.FAILED), answer(Phase.RUNNING)])
@in_virtual_time
async def test_a_completed_request_that_names_no_output_has_none(batch, result):
    await completed(batch)
    batch.api.results["r1"] = for_ever(result)
    record = await run(batch)
    assert (record.stage, record.code) == (Stage.DOWNLOAD, "no_output")


@pytest.mark.parametrize("error", [Unavailable("502"), AuthRefused("401")])
@in_virtual_time
async def test_errors_while_asking_leave_the_result_to_the_next_run(batch, error):
    await completed(batch)
    batch.api.results["r1"] = for_ever(error)
    before = batch.ledger_bytes
    assert (await run(batch)).state is State.COMPLETED
    assert batch.ledger_bytes == before


@in_virtual_time
async def test_a_result_that_nothing_but_errors_come_for_is_left_while_others_go_on(batch):
    await completed(batch)
    batch.api.takes_s = 300.0
    batch.api.results["r1"] = for_ever(Unavailable("502"))
    ended = await batch.run([CAT, job("dog")])
    assert ended.states == {"completed": 1, "done": 1}
    assert (ended.error, ended.runner.view.failed) == (None, 1)


@in_virtual_time
async def test_a_url_that_expired_is_replaced_by_a_fresh_one(batch):
    await completed(batch)
    batch.api.results["r1"] = [answer(urls=(URL,)), answer(urls=("https://cdn/fresh.mp4",))]
    batch.files.scripts[URL] = ["refresh"]
    assert (await run(batch)).state is State.DONE
    assert batch.files.refreshed == ["https://cdn/fresh.mp4"]


@in_virtual_time
async def test_a_fresh_result_without_the_output_has_none(batch):
    await completed(batch)
    batch.api.results["r1"] = [answer(urls=(URL,)), *[answer(urls=())] * 9]
    batch.files.scripts[URL] = ["refresh"]
    record = await run(batch)
    assert (record.code, record.message) == ("no_output", "a fresh result has no output 0")


@pytest.mark.parametrize("error", [Unavailable("502"), AuthRefused("401")])
@in_virtual_time
async def test_a_fresh_url_that_could_not_be_asked_for_says_nothing_about_the_output(batch, error):
    """Only a final no may be called one: with --retry-failed it leads to a purchase."""
    await completed(batch)
    steps = [answer(urls=(URL,))]
    batch.api.results["r1"] = steps
    batch.files.scripts[URL] = ["refresh"]
    batch.files.takes_s = 1.0

    async def then_errors():
        batch.api.results["r1"] = for_ever(error)
        return answer(urls=(URL,))

    steps[0] = then_errors
    record = await run(batch, outage=Outage.of(1e6))
    assert record.code != "no_output"
    assert record.state in (State.COMPLETED, State.FAILED)


@in_virtual_time
async def test_expired_and_no_output_are_bought_again_only_by_the_users_word_and_after_asking(batch):
    await completed(batch)
    batch.api.results["r1"] = for_ever(answer(urls=()))
    await run(batch)
    await run(batch)
    batch.policy = Policy(retry_failed=True)
    ended = await batch.run([CAT])
    assert (ended.states, len(batch.api.posts), ended.records["cat"].attempt) == ({"done": 1}, 1, 2)


@in_virtual_time
async def test_an_expired_result_that_is_back_is_fetched_instead_of_bought(batch):
    await completed(batch)
    batch.api.results["r1"] = for_ever(NotFound("404001"))
    await run(batch)
    batch.api.results.clear()
    batch.policy = Policy(retry_failed=True)
    assert (await run(batch)).state is State.DONE


# Files that were there before


async def done(batch, *urls):
    await completed(batch)
    urls = urls or (URL,)
    batch.api.results["r1"] = for_ever(answer(urls=urls))
    record = await run(batch)
    assert record.state is State.DONE
    batch.files.fetched.clear()
    return record


@in_virtual_time
async def test_a_file_that_went_missing_is_fetched_again(batch):
    before = await done(batch)
    (batch.path / "media" / "cat.mp4").unlink()
    after_it = await run(batch)
    assert (after_it.state, after_it.files) == (State.DONE, before.files)
    assert batch.story("cat")[-2:] == ["completed", "done"]
    assert len(batch.rows) == 1


@in_virtual_time
async def test_only_the_missing_ones_of_several_files_are_fetched_again(batch):
    before = await done(batch, "https://cdn/a.png", "https://cdn/b.png", "https://cdn/c.png")
    (batch.path / "media" / "cat.1.png").write_bytes(b"torn")
    after_it = await run(batch)
    assert batch.files.fetched == ["https://cdn/b.png"]
    assert after_it.files == before.files
    assert batch.rows[1]["file_name"] == "media/cat.1.png"


@in_virtual_time
async def test_all_are_fetched_again_where_the_result_names_another_number_of_outputs(batch):
    await done(batch, "https://cdn/a.png", "https://cdn/b.png")
    (batch.path / "media" / "cat.1.png").unlink()
    batch.api.results["r1"] = for_ever(
        answer(urls=("https://cdn/a.png", "https://cdn/b.png", "https://cdn/c.png"))
    )
    after_it = await run(batch)
    assert len(after_it.files) == 3
    assert len(batch.rows) == 3


@in_virtual_time
async def test_a_missing_file_that_can_not_be_fetched_again_is_a_failed_download(batch):
    await done(batch)
    (batch.path / "media" / "cat.mp4").unlink()
    batch.api.results["r1"] = for_ever(NotFound("404001"))
    record = await run(batch)
    assert (record.state, record.stage, record.code) == (State.FAILED, Stage.DOWNLOAD, "expired")
    assert batch.rows == []


@in_virtual_time
async def test_a_crash_between_the_file_and_its_line_costs_neither_the_file_nor_the_one_before(batch):
    """The second attempt's file is in place, but its `done` never reached the ledger."""
    await done(batch)
    (intent, submitted) = bought(CAT, "r2", attempt=2)
    await batch.hold(intent, submitted, (EventName.COMPLETED, "cat", {}))
    batch.api.knows("r2", age_s=1000)
    media = batch.path / "media" / "cat.mp4"
    (batch.path / "superseded").mkdir()
    media.rename(batch.path / "superseded" / "cat.attempt-1.mp4")
    media.write_bytes(b"second attempt, whole")
    assert (await run(batch)).state is State.DONE
    assert (batch.path / "superseded" / "cat.attempt-1.mp4").read_bytes() == URL.encode()
    assert media.read_bytes() == b"https://cdn/r2.mp4"


@in_virtual_time
async def test_a_slow_answer_is_waited_for(batch):
    await completed(batch)
    batch.api.results["r1"] = [after(60, answer())]
    assert (await run(batch)).state is State.DONE


def files_of(*names):
    return tuple(
        Artifact(f"media/{name}", len(name), hashlib.sha256(name.encode()).hexdigest()) for name in names
    )


async def done_before(batch, one, *names):
    """A job that version 0.1 finished, whose files have these names."""
    made = [(EventName.COMPLETED, one.id, {}), (EventName.DONE, one.id, {"files": files_of(*names)})]
    await batch.hold(*bought(one, f"old-{one.id}"), *made)
    (batch.path / "media").mkdir(exist_ok=True)
    for name in names:
        (batch.path / "media" / name).write_bytes(name.encode())


@in_virtual_time
async def test_a_file_of_another_job_is_never_replaced_whatever_it_is_called(batch):
    await done_before(batch, job("1.0"), "1.0.mp4")
    batch.api.results["r1-1"] = for_ever(answer(urls=("https://cdn/a.mp4", "https://cdn/b.mp4")))
    ended = await batch.run([job("1.0"), job("1")])
    assert ended.states == {"done": 2}
    assert [file.path for file in ended.records["1"].files] == ["media/1.0~2.mp4", "media/1.1.mp4"]
    assert batch.media == ["1.0.mp4", "1.0~2.mp4", "1.1.mp4"]
    assert (batch.path / "media/1.0.mp4").read_bytes() == b"1.0.mp4"


@in_virtual_time
async def test_a_file_that_is_fetched_again_keeps_its_old_name(batch):
    await done_before(batch, job("1.0"), "1.0.mp4")
    (batch.path / "media/1.0.mp4").unlink()
    batch.api.results["old-1.0"] = for_ever(answer(urls=("https://cdn/a.mp4",)))
    await batch.run([job("1.0")])
    assert batch.media == ["1.0.mp4"]


class IgnoresCase(QuickDisk):
    """A disk on which ``Cat.mp4`` and ``cat.mp4`` are one file."""

    def size(self, path):
        there = [name for name in self.list_dir(path.parent) if name.casefold() == path.name.casefold()]
        return super().size(path.parent / there[0]) if there else None


@in_virtual_time
async def test_a_file_of_another_job_is_not_replaced_where_case_is_ignored(batch):
    batch.disk = IgnoresCase()
    await done_before(batch, job("Cat"), "Cat.mp4")
    ended = await batch.run([job("cat")])
    assert [file.path for file in ended.records["cat"].files] == ["media/cat~2.mp4"]


@in_virtual_time
async def test_what_a_crash_left_of_this_jobs_own_output_is_replaced(batch):
    await completed(batch)
    (batch.path / "media").mkdir()
    (batch.path / "media/cat.mp4").write_bytes(b"from a run that died before it could say so")
    await run(batch)
    assert batch.media == ["cat.mp4"]


IMAGE, OTHER = "https://a.runcomfy.net/one.mp4", "https://a.runcomfy.net/two.json"
REFUSED = DownloadRefused("an HTML page", "not_media")


@in_virtual_time
async def test_good_outputs_are_kept_beside_a_bad_one_and_the_next_run_fetches_only_the_rest(batch):
    await completed(batch)
    batch.api.results["r1"] = for_ever(answer(urls=(IMAGE, OTHER, URL)))
    batch.files.scripts[OTHER] = for_ever(REFUSED)
    record = await run(batch)
    assert (record.state, record.code) == (State.FAILED, "not_media")
    assert record.message == (
        "2 other outputs are in place; missing outputs: 1 (of 3); output 1: an HTML page"
    )
    assert batch.media == ["cat.0.mp4", "cat.2.mp4"]
    assert [file["path"] for file in batch.lines("failed")[0]["files"]] == [
        "media/cat.0.mp4",
        "media/cat.2.mp4",
    ]
    before = batch.ledger_bytes
    await run(batch)
    assert batch.ledger_bytes == before
    batch.files.scripts.clear()
    assert (await run(batch)).state is State.DONE
    assert batch.files.fetched == [IMAGE, OTHER, URL, OTHER, OTHER]
    assert len(batch.lines("done")[0]["files"]) == 3


@in_virtual_time
async def test_texts_and_data_uris_are_outputs_too(batch):
    await completed(batch)
    texts = ("a caption", "data:image/gif;base64,R0lGODlhAQABAAAAACw=")
    batch.api.results["r1"] = for_ever(answer(urls=(IMAGE,), texts=texts))
    assert (await run(batch)).state is State.DONE
    assert batch.media == ["cat.0.mp4", "cat.1.txt", "cat.2.gif"]
    assert (batch.path / "media/cat.1.txt").read_text() == "a caption"


@in_virtual_time
async def test_a_result_of_words_alone_is_one(batch):
    await completed(batch)
    batch.api.results["r1"] = for_ever(answer(urls=(), texts=("only words",)))
    assert (await run(batch)).state is State.DONE
    assert batch.media == ["cat.txt"]


@in_virtual_time
async def test_what_the_api_called_the_output_stays_in_the_ledger(batch):
    await completed(batch)
    batch.files.scripts[URL] = for_ever(REFUSED)
    batch.api.results["r1"] = for_ever(answer(urls=(URL,), output={"video": URL, "seed": 7}))
    await run(batch)
    batch.files.scripts.clear()
    await run(batch)
    assert batch.lines("completed")[-1]["output"] == {"video": URL, "seed": 7}

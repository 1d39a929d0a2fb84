"""The download lane: from a finished request to files in the dataset, and ``done``."""

from __future__ import annotations

from pathlib import PurePosixPath

from batcher.dataset.acceptance import Inspector
from batcher.dataset.metadata import Describes
from batcher.download.downloader import Fetcher
from batcher.download.transfer import Fetched
from batcher.engine.poll import Gone, Watcher
from batcher.errors import DownloadError, DownloadRefused, DownloadStalled
from batcher.jobs.job import Artifact, next_name, output_name, owners_of
from batcher.jobs.lifecycle import EXPIRED, NO_OUTPUT, EventName, Stage, State
from batcher.ledger.finished import JobRecord
from batcher.ledger.ledger import Ledger
from batcher.ports import Phase, Result
from batcher.store.local import MEDIA_NAME, RunDir

ASK_AGAIN_S = 120.0
STALLED = "stalled"
Stores = tuple[RunDir, Describes]


class NoUrl(DownloadError):
    """A fresh result no longer has the output that was being fetched."""


class Collector:
    """Fetches what was paid for. Nothing here ever leads to a second POST."""

    def __init__(
        self, fetcher: Fetcher, watcher: Watcher, ledger: Ledger, stores: Stores, inspector: Inspector
    ) -> None:
        self._fetcher = fetcher
        self._watcher = watcher
        self._ledger = ledger
        self._run_dir, self._metadata = stores
        self._inspector = inspector

    async def collect(self, job_id: str, result: Result | None) -> bool:
        """Bring the outputs of a job on disk; True once it is done.

        ``result`` is the API's answer where it was just given. A download that failed before and
        fails the same way again appends nothing.
        """
        record = self._ledger.snapshot.records[job_id]
        try:
            result = result or await self._ask(record)
            if result is None:
                return False
            files = await self._fetch_all(job_id, record, result)
        except Gone as error:
            await self._fail(job_id, record, EXPIRED, f"the API no longer has the result: {error}")
        except NoUrl as error:
            await self._fail(job_id, record, NO_OUTPUT, str(error))
        except DownloadRefused as error:
            await self._fail(job_id, record, error.code, str(error))
        except DownloadError as error:
            await self._fail(job_id, record, STALLED, str(error))
        else:
            await self._done(job_id, record, result, files)
            return True
        return False

    async def _ask(self, record: JobRecord) -> Result | None:
        assert record.request_id is not None
        return await self._watcher.ask(record.request_id, ASK_AGAIN_S)

    async def _fetch_all(self, job_id: str, record: JobRecord, result: Result) -> tuple[Artifact, ...]:
        """Fetch every output, or only those that are missing where the rest is in place."""
        urls = result.urls
        if result.phase is not Phase.SUCCEEDED or not urls:
            raise NoUrl(f"the result is {result.word!r} and names no output")
        kept = record.files if len(record.files) == len(urls) else ()
        wanted = self._run_dir.missing(record) if kept else list(range(len(urls)))
        fetched = [await self._fetch(job_id, record, index, urls[index]) for index in wanted]
        new = dict(zip(wanted, fetched, strict=True))
        return await self._publish(job_id, list(kept) or [None] * len(urls), new)

    async def _fetch(self, job_id: str, record: JobRecord, index: int, url: str) -> Fetched:
        async def refresh() -> str:
            result = await self._ask(record)
            if result is None:
                raise DownloadStalled("its URL expired, and the API did not answer with a fresh one")
            if index >= len(result.urls):
                raise NoUrl(f"a fresh result has no output {index}")
            return result.urls[index]

        return await self._fetcher.fetch(url, self._run_dir.partial(job_id, index), refresh)

    async def _publish(
        self, job_id: str, files: list[Artifact | None], fetched: dict[int, Fetched]
    ) -> tuple[Artifact, ...]:
        for index, file in fetched.items():
            name = self._free_name(job_id, _name(job_id, index, files, file.extension))
            path = self._run_dir.publish(self._run_dir.partial(job_id, index), name)
            files[index] = Artifact(path, file.bytes, file.sha256)
        await self._run_dir.settle()
        return tuple(file for file in files if file is not None)

    def _free_name(self, job_id: str, name: str) -> str:
        """``name``, or another one if a file of another job has it: no such file is ever replaced."""
        while any(self._is_anothers(there, job_id) for there in self._run_dir.namesakes(name)):
            name = next_name(name)
        return name

    def _is_anothers(self, name: str, job_id: str) -> bool:
        owners = [self._ledger.snapshot.get(one) for one in owners_of(name) if one != job_id]
        path = f"{MEDIA_NAME}/{name}"
        return any(file.path == path for owner in owners if owner for file in owner.files)

    async def _done(
        self, job_id: str, record: JobRecord, result: Result, files: tuple[Artifact, ...]
    ) -> None:
        refetched = record.state is State.DONE
        if record.state is not State.COMPLETED:
            self._ledger.append(EventName.COMPLETED, job_id, cost_usd=result.cost_usd)
        found = await self._inspector.inspect(job_id, files)
        await self._run_dir.keep(found.files)
        await self._ledger.record(EventName.DONE, job_id, files=found.files, quality=found.quality)
        self._run_dir.let_go(found.files)
        if refetched:
            self._metadata.mark_stale()
        else:
            self._metadata.append(job_id)

    async def _fail(self, job_id: str, record: JobRecord, code: str, message: str) -> None:
        again = record.state is State.FAILED and (record.stage, record.code) == (Stage.DOWNLOAD, code)
        if again:
            return
        if record.state is State.DONE:
            self._ledger.append(EventName.COMPLETED, job_id)
            self._metadata.mark_stale()
        await self._ledger.record(
            EventName.FAILED, job_id, stage=Stage.DOWNLOAD, code=code, message=message
        )


def _name(job_id: str, index: int, files: list[Artifact | None], extension: str) -> str:
    """What an output is called: as before if it is fetched again, else by its job's id."""
    before = files[index]
    if before is not None and before.path.endswith(extension):
        return PurePosixPath(before.path).name
    return output_name(job_id, index, len(files), extension)

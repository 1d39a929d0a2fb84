"""The download lane: from a finished request to files in the dataset, and ``done``."""

from __future__ import annotations

import binascii
import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote_to_bytes

from batcher.dataset.acceptance import Inspector
from batcher.dataset.metadata import Describes
from batcher.download.downloader import Fetcher
from batcher.download.transfer import Fetched
from batcher.engine.poll import Gone, Watcher, handle_of
from batcher.errors import DownloadError, DownloadRefused, DownloadStalled
from batcher.jobs.job import Artifact, Probed, next_name, output_name, owners_of
from batcher.jobs.lifecycle import EXPIRED, NO_OUTPUT, EventName, Stage, State
from batcher.layout import MEDIA_NAME
from batcher.ledger.finished import JobRecord
from batcher.ledger.ledger import Ledger
from batcher.media.file_types import HEAD_BYTES, MEDIA_TYPES, FileType, identify
from batcher.ports import Phase, Result
from batcher.store.local import RunDir
from batcher.terminal import counted

ASK_AGAIN_S = 120.0
STALLED = "stalled"
_TEXT = FileType(".txt", MEDIA_TYPES[".txt"])


@dataclass(frozen=True, slots=True)
class Outputs:
    """What becomes of outputs: their files, their rows in the dataset, and the check before ``done``."""

    run_dir: RunDir
    metadata: Describes
    inspector: Inspector


class NoUrl(DownloadError):
    """A fresh result no longer lists the output that was being fetched."""


class PartlyFetched(DownloadError):
    """Some outputs are complete and in the dataset; others could not be fetched."""

    def __init__(self, missing: DownloadError, whole: tuple[Artifact, ...]) -> None:
        super().__init__(
            f"{counted(len(whole), 'other output is', 'other outputs are')} in place; {missing}"
        )
        self.code = missing.code if isinstance(missing, DownloadRefused) else STALLED
        self.whole = whole


def _one_of(failures: dict[int, DownloadError], count: int) -> DownloadError:
    """The first failure, naming the outputs that failed."""
    index, first = next(iter(failures.items()))
    if count == 1:
        return first
    which = ", ".join(map(str, failures))
    message = f"missing outputs: {which} (of {count}); output {index}: {first}"
    if isinstance(first, DownloadRefused):
        return DownloadRefused(message, first.code)
    return DownloadStalled(message)


class Collector:
    """Fetches paid results. Nothing here ever causes a second POST."""

    def __init__(self, fetcher: Fetcher, watcher: Watcher, ledger: Ledger, outputs: Outputs) -> None:
        self._fetcher = fetcher
        self._watcher = watcher
        self._ledger = ledger
        self._run_dir = outputs.run_dir
        self._metadata = outputs.metadata
        self._inspector = outputs.inspector

    async def collect(self, job_id: str, result: Result | None) -> bool:
        """Save a job's outputs to disk; True once it is done.

        ``result`` is the API's answer if it has just arrived. If a download fails again in the
        same way as before, nothing is appended.
        """
        record = self._ledger.snapshot.records[job_id]
        try:
            result = result or await self._ask(record)
            if result is None:
                return False
            files = await self._fetch_all(job_id, record, result)
        except Gone as error:
            await self._fail(
                job_id, record, EXPIRED, f"the API no longer has the result: {error.message}"
            )
        except NoUrl as error:
            await self._fail(job_id, record, NO_OUTPUT, str(error))
        except PartlyFetched as error:
            kept = await self._inspector.inspect(job_id, error.whole)
            await self._run_dir.keep(kept.files)
            await self._fail(job_id, record, error.code, str(error), kept.files)
            self._run_dir.discard_local_copies(kept.files)
        except DownloadRefused as error:
            await self._fail(job_id, record, error.code, str(error))
        except DownloadError as error:
            await self._fail(job_id, record, STALLED, str(error))
        else:
            await self._done(job_id, record, result, files)
            return True
        return False

    async def _ask(self, record: JobRecord) -> Result | None:
        return await self._watcher.ask(handle_of(record), ASK_AGAIN_S)

    async def _fetch_all(self, job_id: str, record: JobRecord, result: Result) -> tuple[Artifact, ...]:
        """Fetch every output that isn't in place. One failure does not stop the others.

        Raises PartlyFetched with the complete outputs if only some are complete.
        """
        count = result.output_count
        if result.removed:
            raise Gone(result.message or "it was removed")
        if result.phase is not Phase.SUCCEEDED or not count:
            raise NoUrl(f"the result is {result.word!r} and names no output")
        known = _by_index(job_id, record, count)
        lost = {record.files[number].path for number in self._run_dir.missing(record)}
        files = {index: file for index, file in known.items() if file.path not in lost}
        fetched: dict[int, Fetched] = {}
        failures: dict[int, DownloadError] = {}
        for index in (index for index in range(count) if index not in files):
            try:
                fetched[index] = await self._fetch(job_id, record, index, result)
            except (DownloadRefused, DownloadStalled) as error:
                failures[index] = error
        if failures and not fetched and not files:
            raise _one_of(failures, count)
        files |= await self._publish(job_id, count, known, fetched)
        whole = tuple(files[index] for index in sorted(files))
        if failures:
            raise PartlyFetched(_one_of(failures, count), whole)
        return whole

    async def _fetch(self, job_id: str, record: JobRecord, index: int, result: Result) -> Fetched:
        if index >= len(result.urls):
            return await self._write(job_id, index, result.texts[index - len(result.urls)])

        async def refresh() -> str:
            result = await self._ask(record)
            if result is None:
                raise DownloadStalled("its URL expired, and the API did not answer with a fresh one")
            if index >= len(result.urls):
                raise NoUrl(f"a fresh result has no output {index}")
            return result.urls[index]

        return await self._fetcher.fetch(
            result.urls[index], self._run_dir.partial(job_id, index), refresh
        )

    async def _write(self, job_id: str, index: int, text: str) -> Fetched:
        """Save an output that came inside the answer: a text, or the content of a ``data:`` URI."""
        content, kind = read_inline(text)
        await self._run_dir.write_partial(job_id, index, content)
        sha256 = hashlib.sha256(content).hexdigest()
        return Fetched(len(content), sha256, kind.extension, kind.media_type)

    async def _publish(
        self, job_id: str, count: int, known: dict[int, Artifact], fetched: dict[int, Fetched]
    ) -> dict[int, Artifact]:
        """Move complete files into the dataset; they are there on return, by index.

        ``known`` are those on record: a file that is fetched again keeps its name.
        """
        files = {}
        for index, file in fetched.items():
            name = output_name(job_id, index, count, file.extension)
            if index in known and known[index].path.endswith(file.extension):  # fetched again
                name = PurePosixPath(known[index].path).name
            name = self._free_name(job_id, name)
            path = self._run_dir.publish(self._run_dir.partial(job_id, index), name)
            files[index] = Artifact(path, file.bytes, file.sha256)
        await self._run_dir.settle()
        return files

    def _free_name(self, job_id: str, name: str) -> str:
        """``name``, or another one if another job's file has it: such a file is never replaced."""
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
            self._ledger.append(
                EventName.COMPLETED, job_id, cost_usd=result.cost_usd, output=result.output
            )
        found = await self._inspector.inspect(job_id, files)
        await self._run_dir.keep(found.files)
        await self._ledger.record(EventName.DONE, job_id, files=found.files, quality=found.quality)
        self._run_dir.discard_local_copies(found.files)
        if refetched:
            self._metadata.mark_stale()
        else:
            self._metadata.append(job_id)

    async def _fail(
        self,
        job_id: str,
        record: JobRecord,
        code: str,
        message: str,
        whole: tuple[Probed, ...] | None = None,
    ) -> None:
        again = record.state is State.FAILED and (record.stage, record.code) == (Stage.DOWNLOAD, code)
        if again and (whole is None or len(whole) == len(record.files)):
            return
        if record.state is State.DONE:
            self._ledger.append(EventName.COMPLETED, job_id)
            self._metadata.mark_stale()
        await self._ledger.record(
            EventName.FAILED, job_id, stage=Stage.DOWNLOAD, code=code, message=message, files=whole
        )


def _by_index(job_id: str, record: JobRecord, count: int) -> dict[int, Artifact]:
    """The files on record by output number: a job that is not done may have gaps."""
    if len(record.files) == count:
        return dict(enumerate(record.files))
    numbered = {}
    for file in record.files:
        name = PurePosixPath(file.path).name.removeprefix(f"{job_id}.")
        number = name.partition(".")[0].partition("~")[0]
        if number.isdecimal() and int(number) < count:
            numbered[int(number)] = file
    return numbered


def read_inline(text: str) -> tuple[bytes, FileType]:
    """The bytes of an output and their type. Anything but a valid ``data:`` URI is a text."""
    content = _data(text) if text.startswith("data:") else None
    if not content:
        return text.encode(errors="surrogatepass"), _TEXT
    media_type = text[len("data:") :].partition(",")[0].partition(";")[0]
    return content, identify(content[:HEAD_BYTES], [""], media_type) or _TEXT


def _data(uri: str) -> bytes | None:
    head, _, body = uri.partition(",")
    content = unquote_to_bytes(body)
    if not head.endswith(";base64"):
        return content
    try:
        return binascii.a2b_base64(content)
    except binascii.Error:
        return None

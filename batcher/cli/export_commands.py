"""``export``: from options to an order, with a bar on a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from batcher.disk import LocalDisk
from batcher.errors import UsageError
from batcher.jobs.marks import marks_named
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.marks_file import marked
from batcher.options.ids import ids_in, strangers
from batcher.terminal import counted, visible


def export_run(given: dict[str, Any]) -> int:
    """Export as the options say, and print the result."""
    from batcher.app.progress import byte_bar
    from batcher.cli.amounts import size
    from batcher.dataset.export.exporter import ExportOrder, export, selected
    from batcher.dataset.export.shards import beside_splits

    order: ExportOrder = _order(given)
    disk = LocalDisk()
    if order.choice.but:
        snapshot = read_snapshot(order.run_dir, disk)
        unmet = {job_id for job_id in order.choice.but if snapshot.get(job_id) is None}
        if unmet:
            click.echo(visible(strangers("--except", unmet, str(order.run_dir))), err=True)
    _, total_bytes = selected(order, disk)
    with byte_bar(total_bytes, sys.stderr, shown=sys.stderr.isatty()) as advance:
        done = export(order, disk, lambda _, size_bytes: advance(size_bytes))
    kept = f", {len(done.kept)} of them there already" if done.kept else ""
    shards = len(done.written) + len(done.kept)
    rows, files = counted(done.rows, "row", "rows"), counted(shards, "file", "files")
    click.echo(f"{order.target}: {rows}, {size(done.bytes)} of media, {files}{kept}")
    if order.cut.split_by is not None and order.format != "captions":
        _tell_left_out(beside_splits([*done.written, *done.kept]))
    return 0


def _tell_left_out(labels: list[str]) -> None:
    if labels:
        click.echo(
            "load_dataset reads splits by their names (train, test, ...) and leaves the others out: "
            f"{', '.join(labels[:6])}{', ...' if len(labels) > 6 else ''}; name all with its data_files",
            err=True,
        )


def _order(given: dict[str, Any]) -> Any:
    from batcher.dataset.export.choose import Choice
    from batcher.dataset.export.exporter import ExportOrder
    from batcher.dataset.export.shards import DEFAULT_SHARD_BYTES, Cut

    if given["shard_size"] is not None and given["shard_count"] is not None:
        raise UsageError("give either --shard-size or --shard-count")
    if given["embed"] and given["format"] != "parquet":
        raise UsageError("--embed goes with --format parquet")
    cut = Cut(given["shard_size"] or DEFAULT_SHARD_BYTES, given["shard_count"], given["split_by"])
    choice = Choice(given["where"], _ids(given["but"], given["run_dir"]))
    return ExportOrder(given["run_dir"], given["target"], given["format"], choice, cut, given["embed"])


def _ids(text: str | None, run_dir: Path) -> frozenset[str]:
    """Job ids: a single one, those in ``@FILE``, or those of ``@marks:MARK``."""
    if text is None:
        return frozenset()
    names = marks_named(text, "--except")
    if names is not None:
        return marked(run_dir, names, read_snapshot(run_dir, LocalDisk()))
    return ids_in(Path(text[1:]), "--except") if text.startswith("@") else frozenset({text})

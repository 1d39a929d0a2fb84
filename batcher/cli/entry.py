"""The command line: parse, wire, map errors to exit codes. Heavy packages are imported when needed."""

from __future__ import annotations

import os
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import click

from batcher.cli import process
from batcher.cli.commands import Commands, completion_script, show_version
from batcher.cli.params import DURATION_TYPE, SIZE_TYPE, RunDirType
from batcher.cli.run_options import TableCommand, table_options
from batcher.cli.sandbox_command import sandbox
from batcher.errors import BatcherError
from batcher.options.table import TABLE, options_of
from batcher.terminal import visible, visible_lines

EX_USAGE = 64
EX_SOFTWARE = 70
SIGINT_EXIT = 130
SHOW_WORDS = 2
EXPORT_FORMATS = ["webdataset", "parquet", "csv", "folder", "captions"]
PLACES = "RUN_DIR|MANIFEST..."
RUN_DIR = RunDirType()
THERE = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show the versions of this program, Python and the libraries.",
)
def cli() -> None:
    """Run batches of generations on the RunComfy Model API: plan, submit, poll, download, resume.

    \b
    Try it without an account:
      batcher init && batcher run manifest.yaml --sandbox
    """


@cli.command(cls=TableCommand)
@table_options(options_of("run"))
def run(**given: Any) -> int:
    """Plan MANIFEST, then submit, poll, download; resumes whatever the run directory holds.

    \b
    Try it at no cost, see what it would do and cost, run it within a budget:
      batcher run clips.yaml --sandbox
      batcher plan clips.yaml
      batcher run clips.yaml --max-cost 50
    \b
    A spreadsheet, with a model, one input for all rows, and a column to keep:
      batcher run clips.csv --model ID --set duration=10 --meta split
    \b
    Retry what failed; buy some outputs again; unattended, at most $20 per run directory:
      batcher run clips.yaml --retry-failed
      batcher run clips.yaml --only 'hero-*' --redo
      batcher run clips.yaml --quiet --max-cost 20

    Options can also be set in batcher.toml, in [tool.batcher] of pyproject.toml, in BATCHER_*
    variables, or in the manifest under `run:` (see `batcher config`). --no-NAME turns a switch off.
    """
    from batcher.cli.run_command import run_manifest

    return run_manifest(given)


@cli.command(cls=TableCommand)
@table_options(options_of("plan"))
def plan(**given: Any) -> int:
    """Show what `run` would do with MANIFEST, and what it may cost. Spends nothing."""
    from batcher.cli.run_command import plan_manifest

    return plan_manifest(given)


@cli.command(cls=TableCommand)
@table_options(TABLE, manifest_required=False)
def config(**given: Any) -> int:
    """Show every option, its value for a run of MANIFEST, and the source of the value."""
    from batcher.cli.config_command import show_config

    return show_config(given)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script for SHELL: commands, options and files.

    \b
    bash:  batcher completion bash > ~/.local/share/bash-completion/completions/batcher
    zsh:   batcher completion zsh > ~/.zfunc/_batcher   (with ~/.zfunc in fpath before compinit)
    fish:  batcher completion fish > ~/.config/fish/completions/batcher.fish
    """
    click.echo(completion_script(shell, cli))
    return 0


@cli.command()
@click.argument("places", type=RunDirType(file_okay=True), nargs=-1, required=True, metavar=PLACES)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, for each of several.")
@click.option(
    "--list", "states", metavar="STATE,...", help="One JSON line per job in these states, or refused."
)
@click.option(
    "--quality", type=click.Choice(["good", "bad"]), help="With --list: only jobs of this quality."
)
@click.option("--follow", is_flag=True, help="Keep updating until the run ends.")
def status(
    places: tuple[Path, ...], as_json: bool, states: str | None, quality: str | None, follow: bool
) -> int:
    """Show the state of a batch, during or after a run. Never writes; needs no network.

    For a manifest, shows the run directory that `batcher run` would use for it.
    """
    from batcher.cli.read_commands import JobFilter, show_statuses

    if quality is not None and states is None:
        raise click.UsageError("--quality goes with --list, as in --list done --quality bad")
    listing = JobFilter(states, quality) if states is not None else None
    return show_statuses(places, as_json=as_json, listing=listing, follow=follow)


@cli.command()
@click.argument("root", type=RUN_DIR, default="output")
@click.option("--json", "as_json", is_flag=True, help="One JSON line for each on stdout.")
def ls(root: Path, as_json: bool) -> int:
    """List the run directories below ROOT (output/): state, jobs, cost, last run and its exit code."""
    from batcher.cli.overview_command import list_runs

    return list_runs(root, as_json=as_json)


@cli.command()
@click.argument("run_dir", type=RUN_DIR, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(run_dir: Path | None, as_json: bool) -> int:
    """Check what a run (in RUN_DIR) depends on: token, API, balance, clock, lock, disk, cron.

    Spends nothing. The exit code is that of a run.
    """
    from batcher.cli.doctor_command import examine

    return examine(run_dir, as_json=as_json)


@cli.command()
@click.argument("root", type=THERE, required=False)
@click.option(
    "--by",
    type=click.Choice(["day", "month", "model", "vendor", "run"]),
    default="day",
    show_default=True,
)
@click.option("--rebuild", "anew", is_flag=True, help="Rebuild the book from the ledgers below ROOT.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def spend(root: Path | None, by: str, anew: bool, as_json: bool) -> int:
    """Show what was spent, from the account's book or from the ledgers below ROOT."""
    from batcher.cli.spend_command import show_spending

    return show_spending(root, by, anew=anew, as_json=as_json)


@cli.command()
@click.argument("run_dir", type=RUN_DIR)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def verify(run_dir: Path, as_json: bool) -> int:
    """Re-hash every output against the ledger; exits 1 if it finds damage."""
    from batcher.cli.read_commands import verify_outputs

    return verify_outputs(run_dir, as_json=as_json)


@cli.command()
@click.argument("run_dir", type=RUN_DIR)
@click.option(
    "--every", "every_s", type=DURATION_TYPE, help="Rewrite it at this interval until the run ends."
)
def report(run_dir: Path, every_s: float | None) -> int:
    """Write report.html into RUN_DIR: the gallery and the plots. Works during a run, too."""
    from batcher.cli.report_commands import report_run

    if every_s is not None and every_s <= 0:
        raise click.UsageError("--every must be above 0")
    return report_run(run_dir, every_s)


@cli.command()
@click.argument("run_dir", type=RUN_DIR)
@click.option("--browser/--no-browser", default=True, help="Open it in the browser (the default).")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1 (default: any free one)."
)
def view(run_dir: Path, browser: bool, port: int) -> int:
    """Show RUN_DIR live in the browser, and save the marks that you make there, until Ctrl-C.

    Marks go to marks.jsonl in RUN_DIR, for @marks:MARK and `promote`. Buys nothing; a run may be active.
    """
    from batcher.cli.view_command import view_run

    return view_run(run_dir, port, browser=browser)


@cli.command()
@click.argument("run_dir", type=RUN_DIR)
@click.option("--format", type=click.Choice(EXPORT_FORMATS), required=True)
@click.option("-o", "--output", "target", type=RUN_DIR, required=True, metavar="DEST")
@click.option("--filter", "where", metavar="EXPR", help="""Only these: 'meta.split == "train"'.""")
@click.option("--except", "but", metavar="@FILE|@marks:MARK", help="Exclude these job ids.")
@click.option("--split-by", metavar="COLUMN", help="Separate files for each value: meta.split.")
@click.option("--shard-size", type=SIZE_TYPE, help="Media bytes per file (default 1GB).")
@click.option("--shard-count", type=click.IntRange(min=1), help="Number of files for each split.")
@click.option("--embed", is_flag=True, help="Parquet: include the media.")
def export(**given: Any) -> int:
    """Export the outputs of RUN_DIR to DEST, resumable."""
    from batcher.cli.export_commands import export_run

    return export_run(given)


@cli.command()
@click.argument("run_dir", type=RUN_DIR)
@click.option(
    "--marks", default="star", show_default=True, metavar="MARK,...", help="Jobs with this mark."
)
@click.option("--model", metavar="ID", help="Use this model, instead of the one they were made with.")
@click.option("--set", "sets", metavar="FIELD=VALUE", multiple=True, help="Change an input.")
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE.yaml",
)
def promote(run_dir: Path, marks: str, model: str | None, sets: tuple[str, ...], target: Path) -> int:
    """Write a manifest of the marked jobs of RUN_DIR. Buys nothing, overwrites nothing.

    \b
    Drafts first, then finals of the best, ten seconds long:
      batcher promote output/drafts --marks star --model ID --set duration=10 -o finals.yaml
      batcher plan finals.yaml
    """
    from batcher.cli.promote_command import promote_marked

    return promote_marked(run_dir, target, marks, (model, sets))


@cli.command()
@click.argument("run_dir", type=RUN_DIR)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def cancel(run_dir: Path, as_json: bool) -> int:
    """Cancel what is still queued at the API, and what runs if its vendor cancels that.

    RunComfy's Model API can't cancel what runs. Cancelled while running may be charged.
    """
    from batcher.cli.remote_commands import cancel_queued

    return cancel_queued(run_dir, as_json=as_json)


@cli.command()
@click.argument("run_dir", type=RUN_DIR)
@click.argument("job", required=False)
@click.option("--request-id", metavar="ID", help="The request that belongs to the job.")
@click.option("--not-created", is_flag=True, help="No request was created: the next run submits it.")
@click.option(
    "--auto", is_flag=True, help="Ask the vendors about all unknown jobs, as far as they can tell."
)
def resolve(
    run_dir: Path, job: str | None, request_id: str | None, not_created: bool, auto: bool
) -> int:
    """Resolve unknown jobs: one JOB after looking it up on the vendor's page, or all with --auto.

    \b
    Examples:
      batcher resolve output/shots cat-01 --request-id 8f14e45f
      batcher resolve output/shots --auto
    """
    from batcher.cli.remote_commands import resolve_all, resolve_unknown

    if auto and not (job or request_id or not_created):
        return resolve_all(run_dir)
    if auto or job is None or (request_id is None) != not_created:
        raise click.UsageError("give --auto, or a JOB with either --request-id ID or --not-created")
    return resolve_unknown(run_dir, job, request_id)


@cli.command()
@click.argument("words", nargs=-1, metavar="[QUERY | show ID]")
@click.option("--refresh", is_flag=True, help="Ask the API even if the cache is fresh.")
@click.option("--sandbox", is_flag=True, help="Use the sandbox's catalogue.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def models(words: tuple[str, ...], refresh: bool, sandbox: bool, as_json: bool) -> int:
    """Search the catalogue, or show one model: its price and its inputs. Works offline, from the cache.

    \b
    batcher models image-to-video
    batcher models show kling/kling-2-1/master/image-to-video
    """
    from batcher.cli.models_command import Asking, list_models, show_model

    asking = Asking(sandbox, refresh, as_json)
    if words[:1] != ("show",):
        return list_models(" ".join(words), asking)
    if len(words) != SHOW_WORDS:
        raise click.UsageError("say which model: batcher models show ID")
    return show_model(words[1], asking)


@cli.command()
@click.option("--model", metavar="ID", help="With this model's fields.")
@click.option("--sandbox", is_flag=True, help="The model is one of the sandbox's.")
def schema(model: str | None, sandbox: bool) -> int:
    """Print the JSON Schema of a YAML manifest, for editors.

    \b
    batcher schema --model ID > manifest.schema.json
    and as the manifest's first line:
    # yaml-language-server: $schema=manifest.schema.json
    """
    from batcher.cli.starter import print_schema

    return print_schema(model, sandbox=sandbox)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default="manifest.yaml")
@click.option("--model", metavar="ID", help="For this model: its fields, defaults, allowed values.")
@click.option("--sandbox", is_flag=True, help="The model is one of the sandbox's.")
def init(file: Path, model: str | None, sandbox: bool) -> int:
    """Write a commented starter manifest to FILE."""
    from batcher.cli.starter import write_starter

    return write_starter(file, model, sandbox=sandbox)


cli.add_command(sandbox)


def _show(error: click.ClickException) -> None:
    shown = StringIO()
    error.show(shown)
    click.echo(visible_lines(shown.getvalue().expandtabs(2).rstrip("\n")), err=True)


def _nobody_reads() -> int:
    """Standard output was closed, as by ``head``: what is left of it goes nowhere, and all is well."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def exit_code() -> int:
    """Run the command, and print what ends it early: a line for each error, never a traceback."""
    try:
        with process.interruptible():
            process.check_working_directory()
            process.allow_open_files()
            return cli(standalone_mode=False) or 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.Abort:
        return SIGINT_EXIT
    except click.ClickException as error:
        _show(error)
        return EX_USAGE
    except BatcherError as error:
        click.echo(visible_lines(f"batcher: {error}"), err=True)
        return error.exit_code
    except process.EndedBySignal as end:
        return end.exit_code
    except BrokenPipeError:
        return _nobody_reads()
    except SystemExit:  # click makes one of a closed pipe, and of nothing else if it isn't standalone
        return _nobody_reads()
    except Exception as error:  # noqa: BLE001 - the last line of defence
        limit = process.at_a_limit(error)
        told = str(limit) if limit else f"internal error: {type(error).__name__}: {error}"
        click.echo(visible(f"batcher: {told}"), err=True)
        return limit.exit_code if limit else EX_SOFTWARE

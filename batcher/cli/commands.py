"""The group of commands: hints for unknown names, and the output of ``--version``."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from typing import Any, Final

import click

from batcher.cli.process import EndedBySignal
from batcher.errors import BatcherError, interrupted
from batcher.options.command import as_path, command
from batcher.terminal import visible, visible_json

HINTS: Final = {
    ("retry",): "batcher run MANIFEST --retry-failed",
    ("resume", "continue", "restart", "start", "submit", "download", "fetch"): "batcher run MANIFEST",
    ("redo", "rerun", "rebuy"): "batcher run MANIFEST --only GLOB --redo",
    ("open", "show", "gallery", "html"): "batcher report RUN_DIR",
    ("logs", "log", "jobs", "ps", "info", "watch", "follow", "tail"): "batcher status RUN_DIR --follow",
    ("list", "runs", "batches"): "batcher ls",
    ("diagnose", "health", "ping", "whoami"): "batcher doctor",
    ("stop", "kill", "abort"): "batcher cancel RUN_DIR",
    ("check", "validate", "lint", "dry-run", "estimate", "price", "cost"): "batcher plan MANIFEST",
    ("hash", "audit", "fsck"): "batcher verify RUN_DIR",
    ("new", "create", "example"): "batcher init",
    ("search", "catalog", "catalogue", "model"): "batcher models QUERY",
    ("settings", "options", "env", "configure"): "batcher config",
    ("help",): "batcher --help",
    ("version",): "batcher --version",
}
"""Names that people try, and the command that does what they probably want."""

NO_CLEANING: Final = (
    "no command deletes outputs, because they were paid for; to delete a batch, remove its run directory"
)
DISTRIBUTIONS: Final = ("runcomfy-batcher", "batcher")
LIBRARIES: Final = ("aiohttp", "click", "jsonschema-rs", "msgspec", "pyyaml", "tqdm")
EXTRAS: Final = (
    *(
        "av",
        "distributed",
        "obstore",
        "openpyxl",
        "pillow",
        "pyarrow",
        "uvloop",
        "webdataset",
        "apprise",
    ),
)


class JsonErrors(click.Command):
    """A command that, with ``--json``, also prints its error as JSON on stdout."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Errors are printed as JSON, then raised again."""
        try:
            return self._invoke(ctx)
        except BatcherError as error:
            if ctx.params.get("as_json") or ctx.params.get("json"):
                click.echo(visible_json({"error": str(error), "exit_code": error.exit_code}))
            raise

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EndedBySignal as end:  # click would take every signal for a Ctrl-C
            raise interrupted(end.number) from None


class Commands(click.Group):
    """A group that suggests which command was probably meant."""

    command_class = JsonErrors

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names. Raises UsageError with a hint."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.UsageError(f"there is no command {visible(name)!r}{self._hint(name)}", ctx)
        return super().resolve_command(ctx, args)

    def _hint(self, name: str) -> str:
        word = name.lower()
        for words, meant in HINTS.items():
            if word in words:
                return f"; try: {meant}"
        if word in ("clean", "rm", "delete", "remove", "purge", "prune"):
            return f": {NO_CLEANING}"
        near = get_close_matches(word, self.commands, 1)
        if near:
            return f"; did you mean {near[0]}?"
        if "." in name or "/" in name:
            return f"; to run a manifest: {command('run', as_path(name))}"
        return ""


def show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Print the versions of this program, of Python, and of the libraries that are installed."""
    if not value or ctx.resilient_parsing:
        return
    click.echo("\n".join(version_lines()))
    ctx.exit()


def version_lines() -> list[str]:
    """The versions of this program, of Python and of the libraries, as lines."""
    import platform

    own = next(iter(_versions(DISTRIBUTIONS).values()), "(not installed)")
    found = _versions((*LIBRARIES, *EXTRAS))
    return [
        f"batcher {own}",
        f"Python {platform.python_version()} on {platform.platform(terse=True)}",
        ", ".join(f"{name} {number}" for name, number in found.items()),
    ]


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    """The versions of the installed ones of these distributions."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class SandboxCommands(click.Group):
    """``batcher sandbox``: its help ends with the list of faults, and what each of them shows."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line for each fault, which the terminal may wrap."""
        from batcher.sandbox.lessons import help_lines

        formatter.write("\nFaults, with their shares of what goes wrong in their stage:\n")
        formatter.write("".join(f"  {line}\n" for line in help_lines()))


def completion_script(shell: str, cli: click.Group) -> str:
    """The completion script for ``shell`` (bash, zsh, fish)."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None, shell
    return made(cli, {}, "batcher", "_BATCHER_COMPLETE").source()

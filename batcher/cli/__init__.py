"""The command line: parse, ask, print, map errors to exit codes."""

from batcher.cli.entry import main

__all__ = ["main"]

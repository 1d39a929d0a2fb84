"""``batcher`` as a command, also as ``python -m batcher``."""

from batcher.cli import process


def main() -> None:
    """The console script: exit codes are those of the README's table, and no traceback ever shows."""
    process.prepare()
    from batcher.cli.entry import exit_code  # takes a tenth of a second, in which signals may arrive

    process.leave(exit_code())


if __name__ == "__main__":
    main()

"""``python -m batcher``."""

from batcher.cli.entry import main

if __name__ == "__main__":
    main()

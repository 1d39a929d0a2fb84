"""``python -m batcher``."""

from batcher.cli import main

if __name__ == "__main__":
    main()

"""Draws docs/images/terminal.svg from a real run: interrupted, and run again.

.venv/bin/python docs/terminal_picture.py
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "images" / "terminal.svg"
RUN_DIR = "output/quickstart-sandbox"
SHOWN = ["batcher", "run", "manifests/quickstart.yaml", "--sandbox"]
COLUMNS, ROWS, INTERRUPT_AFTER_S = 130, 40, 5.0
CHAR_WIDTH, LINE_HEIGHT, MARGIN = 8.4, 20, 24
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def captured(interrupt_after_s: float | None) -> list[str]:
    """The lines that stand on a terminal after the command ended."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    env = os.environ | {"NO_COLOR": "1", "TERM": "xterm"}
    command = [sys.executable, "-m", *SHOWN]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=side, stdout=side, stderr=side)
    os.close(side)
    began, text, interrupted = time.monotonic(), b"", False
    while True:
        ready, _, _ = select.select([main], [], [], 0.1)
        try:
            text += os.read(main, 65536) if ready else b""
        except OSError:
            break
        late = interrupt_after_s is not None and time.monotonic() - began > interrupt_after_s
        if late and not interrupted:
            process.send_signal(signal.SIGINT)
            interrupted = True
    process.wait()
    plain = SEQUENCE.sub("", text.decode())
    return [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in plain.split("\n")]


def drawn(lines: list[str]) -> str:
    """The lines as an SVG that follows the reader's light or dark scheme."""
    width = round(COLUMNS * CHAR_WIDTH + 2 * MARGIN)
    height = len(lines) * LINE_HEIGHT + 2 * MARGIN
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + LINE_HEIGHT * (n + 0.75):.0f}" '
        f'class="{"c" if line.startswith("$") else "t"}" xml:space="preserve">{escape(line)}</text>'
        for n, line in enumerate(lines)
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"
aria-label="A batch run is interrupted, and goes on when it is typed again">
<style>
rect {{ fill: #1b1f27 }} text {{ font: 14px ui-monospace, Menlo, Consolas, monospace; fill: #c9d1d9 }}
.c {{ fill: #7ee787; font-weight: 600 }}
</style>
<rect width="{width}" height="{height}" rx="10"/>
{rows}
</svg>
"""


def main() -> None:
    shutil.rmtree(ROOT / RUN_DIR, ignore_errors=True)
    prompt = "$ " + " ".join(SHOWN)
    first, second = captured(INTERRUPT_AFTER_S), captured(None)
    shutil.rmtree(ROOT / RUN_DIR)
    TARGET.parent.mkdir(exist_ok=True)
    lines = [prompt, *first, prompt, *second]
    TARGET.write_text(drawn([line for line in lines if line]), "utf-8")


if __name__ == "__main__":
    main()

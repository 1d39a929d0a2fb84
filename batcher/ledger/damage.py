"""Describes the damage of a ledger that can't be read: its place, its likely cause, the remedy.

What a crash leaves of the last lines is no damage: see ``torn_tail``.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from batcher.disk import Disk
from batcher.errors import LedgerError

HEAD_BYTES = 4096
_UTF_16, _UTF_8_SIG = (b"\xff\xfe", b"\xfe\xff"), b"\xef\xbb\xbf"
_PACKED = {
    b"\x1f\x8b": "gzip -dc",
    b"\x28\xb5\x2f\xfd": "zstd -dc",
    b"\xfd7zXZ": "xz -dc",
    b"BZh": "bzip2 -dc",
}


def damage(path: Path, line_number: int, problem: str, disk: Disk) -> LedgerError:
    """The error for a line that no crash can have left: its place, its likely cause, the remedy."""
    with disk.open_read(path) as file:
        head = file.read(HEAD_BYTES)
    looks, remedy = _looks_like(head, path) or (None, _by_hand(path, line_number))
    said = f"{problem}. It looks {looks}. {remedy}" if looks else f"{problem}. {remedy}"
    return LedgerError(f"{path.name}:{line_number}: {said}. The file was left as it is")


def _looks_like(head: bytes, path: Path) -> tuple[str, str] | None:
    """What another program did to the whole file, and the commands that undo it."""
    shown, copy = shlex.quote(str(path)), shlex.quote(f"{path}.damaged")
    back = f"Put it back from a backup, or undo that: `cp {shown} {copy}`, then `%s`"
    for magic, unpack in _PACKED.items():
        if head.startswith(magic):
            return f"compressed ({unpack.split()[0]})", back % f"{unpack} < {copy} > {shown}"
    if head.startswith(_UTF_16) or b"{\0" in head[:4] or b"\0{" in head[:4]:
        code = "UTF-16" if head.startswith(_UTF_16) else f"UTF-16{'LE' if head[:1] == b'{' else 'BE'}"
        return "saved as UTF-16", back % f"iconv -f {code} -t UTF-8 {copy} > {shown}"
    if head.startswith(_UTF_8_SIG):
        return "saved with a byte-order mark", back % f"tail -c +4 {copy} > {shown}"
    if b"\r" in head:
        return "saved with other line ends (CR)", back % f"tr -d '\\r' < {copy} > {shown}"
    if head.lstrip().startswith(b"["):
        return "turned into one JSON array", back % f"jq -c '.[]' {copy} > {shown}"
    if re.match(rb"\s*\{(\s+\"|\"event\" *: )", head):
        return "formatted by another program", back % f"jq -c . {copy} > {shown}"
    return None


def blanking(path: Path, line_number: int) -> str:
    """How to continue without one line: it is blanked in place, so that no other line moves."""
    return (
        f"To continue without this line (the file before it is kept): `{_blank(path, line_number)}`; "
        f"then look at `batcher status {shlex.quote(str(path.parent))}`"
    )


def _blank(path: Path, line_number: int) -> str:
    return f"LC_ALL=C sed -i.damaged '{line_number}s/./ /g' {shlex.quote(str(path))}"


def _by_hand(path: Path, line_number: int) -> str:
    accept = f"""sed -i.damaged -E 's/,"group":[0-9]+\\}}$/}}/' {shlex.quote(str(path))}"""
    return (
        "Put the ledger back from a backup. Without one: a single line that is spoilt can be blanked in "
        f"place, `{_blank(path, line_number)}`; if lines were added, removed, sorted or rewritten on "
        f"purpose, accept them as they stand, `{accept}`. Then look at `batcher status "
        f"{shlex.quote(str(path.parent))}`: a job that no line mentions any more would be bought again"
    )

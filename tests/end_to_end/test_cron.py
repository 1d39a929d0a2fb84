"""The crontab of docs/operations.md under a real cron: nothing is bought twice, and mail means something.

The daemon is Debian's, in a mount namespace of its own: it sees no other crontab, no other daemon sees
it, and its mail comes here. ``@reboot`` stands for the times, so that each start of it is a tick.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web

from batcher.sandbox.catalogue import catalogue
from tests.end_to_end.test_operations import blocks
from tests.ledger.test_book import FLUX, PRICE_USD
from tests.support.api_server import TOKEN, ApiServer

CRON = shutil.which("cron", path="/usr/sbin:/sbin")
ALONE = ("unshare", "--mount")
TICK_S = 60
CAN = (
    CRON is not None
    and os.geteuid() == 0
    and shutil.which("unshare") is not None
    and subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0
)
pytestmark = pytest.mark.skipif(not CAN, reason="needs root, Debian's cron, and mount namespaces")

SENDMAIL = """#!/bin/sh
cat > {root}/mail/.$$ && mv {root}/mail/.$$ {root}/mail/$$
"""
SETUP = """set -e
mount --bind {root}/spool /var/spool/cron
mount --bind {root}/empty /etc/cron.d
mount --bind /dev/null /etc/crontab
mount -t tmpfs none /run
mount --bind {root}/sbin /usr/sbin
exec {root}/cron -f -L 0
"""


class Cron:
    """A crontab, and the daemon that carries it out."""

    def __init__(self, root):
        self.root = root
        for name in ("spool/crontabs", "empty", "sbin", "mail"):
            (root / name).mkdir(parents=True)
        shutil.copy(CRON, root / "cron")
        (root / "sbin/sendmail").write_text(SENDMAIL.format(root=root))
        (root / "sbin/sendmail").chmod(0o755)
        (root / "setup").write_text(SETUP.format(root=root))

    def tick(self, text, jobs):
        """Let the daemon begin ``jobs`` lines of the crontab; returns the mails, once all have ended."""
        crontab = self.root / "spool/crontabs/root"
        crontab.write_text(text)
        crontab.chmod(0o600)
        (self.root / "codes").write_text("")
        for mail in (self.root / "mail").iterdir():
            mail.unlink()
        daemon = subprocess.Popen([*ALONE, "sh", self.root / "setup"])
        try:
            until = time.monotonic() + TICK_S
            while len(self.codes()) < jobs or has_children(daemon.pid):
                assert time.monotonic() < until, f"{self.codes()} after {TICK_S} s"
                assert daemon.poll() is None
                time.sleep(0.05)
        finally:
            daemon.terminate()
            daemon.wait(10)
        return [mail.read_text().partition("\n\n") for mail in (self.root / "mail").iterdir()]

    def codes(self):
        """Exit codes by the name of the line."""
        told = (self.root / "codes").read_text().split()
        return sorted(zip(told[::2], map(int, told[1::2]), strict=True))


def has_children(pid):
    """Whether a process has children: cron's send what is left of the mail."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            return True
    return False


def crontab(root, server, lines):
    """The crontab of the page, for the folders and the API of the test, with more lines of its kind."""
    (page,) = blocks("crontab")
    found = re.search(r"^\*/30 \* \* \* \*  (.+)$", page, re.MULTILINE)
    head = page[: found.start()].replace("/srv/venv/bin", str(Path(sys.executable).parent))
    head = head.replace("/srv/clips", str(root / "clips"))
    own = f"HOME={root}\nRUNCOMFY_MODEL_API_BASE={server.base}\n"
    command = found[1].replace("/srv/clips", str(root / "clips"))
    text = [f"@reboot  {line(command)}; echo {name} $? >> {root / 'codes'}" for name, line in lines]
    return head + own + "\n".join(text) + "\n"


def write(path, prompts):
    """As the page says: a new file, renamed."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".new")
    jobs = [{"prompt": prompt} for prompt in prompts]
    new.write_text(json.dumps({"model": FLUX, "jobs": jobs}))
    new.rename(path)


@pytest.fixture
def server():
    served = ApiServer(generate_s=1.0)
    served.catalogue = {FLUX: catalogue()[FLUX].listing(include_schema=True)}
    served.on_post = lambda served, body: (
        web.json_response({"message": "not this one"}, status=400) if body["prompt"] == "bad" else None
    )
    served.start()
    yield served
    served.stop()


def test_lines_that_overlap_a_manifest_that_grows_and_a_cap_a_day(server, tmp_path):
    cron = Cron(tmp_path)
    write(tmp_path / "clips/clips.yaml", ["a", "b"])
    (tmp_path / "clips/token").write_text(TOKEN)
    write(tmp_path / "capped/clips.yaml", ["x", "y", "z"])

    def page(command):
        return command

    def capped(command):
        capped_by = f"--max-cost-per day={PRICE_USD * 4}"
        return command.replace(str(tmp_path / "clips"), str(tmp_path / "capped")).replace(
            "--max-cost 50", capped_by
        )

    # All is well: two lines at once for the same directory. Nobody is told anything.
    twice = [("page", page), ("page", page)]
    assert cron.tick(crontab(tmp_path, server, twice), 2) == []
    assert cron.codes() == [("page", 0), ("page", 0)]
    assert len(server.posts) == 2

    # The manifest grew, by one that is refused; another directory comes to the cap of the day.
    write(tmp_path / "clips/clips.yaml", ["a", "b", "bad"])
    mails = cron.tick(crontab(tmp_path, server, [("page", page), ("capped", capped)]), 2)
    assert cron.codes() == [("capped", 3), ("page", 1)]
    told = {head.partition("Subject: ")[2].partition("\n")[0]: body for head, _, body in mails}
    assert len(told) == 2
    about = {"capped" if "capped" in subject else "page": body for subject, body in told.items()}
    assert "not this one" in about["page"]
    assert "batcher" in about["page"]
    assert "--max-cost-per day=0.1" in about["capped"]
    assert "pending until" in about["capped"]

    # What was refused is an old story; an API that is away is told; the cap stays where it was.
    def away(command):
        return command.replace(
            "batcher run", "RUNCOMFY_MODEL_API_BASE=http://127.0.0.1:9/v1 batcher run"
        ) + (" -o output/away --yes --outage-timeout 1s")

    mails = cron.tick(crontab(tmp_path, server, [("page", page), ("capped", capped), ("away", away)]), 3)
    assert cron.codes() == [("away", 69), ("capped", 3), ("page", 0)]
    assert len(mails) == 2
    assert sorted(Counter(post["prompt"] for post in server.posts).items()) == [
        ("a", 1), ("b", 1), ("bad", 1), ("x", 1), ("y", 1),
    ]  # fmt: skip
    assert server.tokens == {f"Bearer {TOKEN}"}
    assert not any(TOKEN in body for *_, body in mails)

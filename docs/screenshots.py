"""Takes the pictures of the report in these pages: `.venv/bin/python docs/screenshots.py`.

Buys a small batch at a sandbox that misbehaves now and then, writes its report, and photographs it in
headless Chromium (`apt-get install chromium`). Nothing here costs anything or leaves this machine.
"""

import asyncio
import random
import sys
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, chdir
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.report.render import write_report
from batcher.sandbox.pictures import draw_png
from batcher.sandbox.server import Sandbox
from batcher.sandbox.settings import SandboxSettings
from tests.support.browser import browser

IMAGES = Path(__file__).parent / "images"
MANIFEST = """
name: autumn-shots
model: kling/kling-2-1/master/image-to-video
defaults: {aspect_ratio: "16:9"}
jobs:
  - prompt: "{{ animal }} crosses {{ place }}, golden hour"
    image_url: inputs/field.png
    duration: 5
    matrix:
      animal: [a red fox, a grey heron, a wild horse]
      place: [tall grass, shallow water, fresh snow]
      cfg_scale: [0.3, 0.5, 0.7]
    meta: {split: train}
  - prompt: "{{ what }}, matte painting"
    model: blackforestlabs/flux-1/dev/text-to-image
    matrix:
      what: [a lighthouse in a storm, a valley of wind mills, an abandoned observatory]
      guidance_scale: [2, 3.5, 7]
      aspect_ratio: ["16:9", "1:1"]
    meta: {split: test}
"""
WIDTH, HEIGHT = 1360, 880
SHOTS = {
    "report-gallery-light": ("", False, WIDTH, HEIGHT),
    "report-gallery-dark": ("", True, WIDTH, HEIGHT),
    "report-compare": (
        "#tab=compare&rows=var.animal&cols=var.place&w.input.cfg_scale=0.5",
        False,
        WIDTH,
        HEIGHT,
    ),
    "report-problems": ("#tab=problems", False, WIDTH, HEIGHT),
    "report-plots-light": ("#tab=plots", False, WIDTH, 980),
    "report-plots-dark": ("#tab=plots", True, WIDTH, 980),
    "report-phone": ("", False, 400, 860),
}
TROUBLE = "report-problems"
"""The one that is taken before what failed was bought again."""
TRUST = ("--allow-host", "127.0.0.1", "--poll", "0.3")


@asynccontextmanager
async def shopping(folder: Path) -> AsyncIterator[Callable[..., Awaitable[Path]]]:
    """Buys the batch, with further options of ``run``; returns the page about it."""
    (folder / "inputs").mkdir()
    (folder / "inputs" / "field.png").write_bytes(draw_png(random.Random(4), (320, 180), "", "a field"))
    (folder / "autumn-shots.yaml").write_text(MANIFEST)
    async with Sandbox(SandboxSettings(seed=7, speed=1, faults=0.14)) as base_url:
        environment = {
            "PATH": str(Path(sys.executable).parent),
            "HOME": str(folder),
            "RUNCOMFY_MODEL_API_BASE": base_url,
            "RUNCOMFY_TOKEN": "sandbox",
        }
        arguments = ("-m", "batcher", "run", "autumn-shots.yaml", "-c", "12", "--yes", "--quiet")

        async def buy(*extra: str) -> Path:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, *TRUST, *extra, cwd=folder, env=environment, stdout=DEVNULL
            )
            await process.wait()
            with chdir(folder):
                write_report(Path("output/autumn-shots"), LocalDisk(), SystemClock())
            return folder / "output" / "autumn-shots" / "report.html"

        yield buy


async def photograph(page_path: Path, names: Iterable[str]) -> None:
    """These of SHOTS, each as a PNG of at most some 200 KB."""
    IMAGES.mkdir(exist_ok=True)
    async with browser() as page:
        for name in names:
            fragment, dark, width, height = SHOTS[name]
            await page.window(width, height, dark=dark, phone=width < 600)
            await page.open(page_path, fragment)
            await page.until("[...document.querySelectorAll('video')].every((v) => v.readyState > 1)")
            await asyncio.sleep(0.5)
            await page.screenshot(IMAGES / f"{name}.png")
            shrink(IMAGES / f"{name}.png")
        if page.errors:
            sys.exit("\n".join(page.errors))


def shrink(path: Path) -> None:
    """256 colours, dithered: half the bytes, and hardly a difference to see."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT)
    small.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} KB")


async def main() -> None:
    if len(sys.argv) > 1:
        await photograph(Path(sys.argv[1]) / "report.html", SHOTS)
        return
    with tempfile.TemporaryDirectory() as folder:
        async with shopping(Path(folder)) as buy:
            await photograph(await buy(), [TROUBLE])
            await buy("--retry-failed", "--retry-unknown")
            page_path = await buy("--retry-refused", "--retry-unknown")
            await photograph(page_path, [name for name in SHOTS if name != TROUBLE])


if __name__ == "__main__":
    asyncio.run(main())

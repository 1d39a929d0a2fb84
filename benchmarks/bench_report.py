"""How long a report of 10,000 outputs takes: to write, to open, to filter. Needs Chromium.

The ledger is made up; the outputs are links to one real clip and one real picture, so that the browser
has something to load. Latency is from a change of the search box or a select to the next painted frame.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.report.render import write_report
from tests.support.browser import browser, chromium
from tests.support.dataset import clip, picture

JOBS = 10_000
ROUNDS = 5
ANIMALS = ("a red fox", "a grey heron", "a wild horse", "an old dog", "a barn owl")
PLACES = ("tall grass", "shallow water", "fresh snow", "a pine forest")
LATENCY = """
new Promise((done) => {
  const began = performance.now();
  %s
  const settled = () => requestAnimationFrame(() => setTimeout(() => done(performance.now() - began), 0));
  setTimeout(settled, %d);
})
"""
DEBOUNCE_MS = 80


def lines():
    """A ledger in which every job was done, ten a second."""
    yield {"event": "run", "run": "bench", "at": stamp(0), "manifest": "bench.yaml", "total": JOBS}
    for n in range(JOBS):
        job = {"job": f"job-{n:05d}", "attempt": 1}
        prompt = f"{ANIMALS[n % 5]} crosses {PLACES[n // 5 % 4]}, take {n // 20}, low camera, golden hour, long lens"
        inputs = {
            "prompt": prompt,
            "duration": 5,
            "cfg_scale": n % 7 / 10,
            "seed": n % 50,
            "aspect_ratio": "16:9",
        }
        model = {
            "model": "acme/film/v2" if n % 3 else "acme/paint/v1",
            "source": f"bench.yaml:{n}",
            "price_usd": 1.4,
        }
        name = f"media/job-{n:05d}.{'mp4' if n % 3 else 'png'}"
        video = {"media_type": "video/mp4", "width": 320, "height": 180, "duration_s": 2.0, "fps": 24.0}
        file = {
            "path": name,
            "bytes": 60000,
            "sha256": f"{n:064x}",
            **(video if n % 3 else {"media_type": "image/png"}),
        }
        yield {
            "event": "submitting",
            "at": stamp(n / 10),
            **job,
            **model,
            "input": inputs,
            "meta": {"split": "train"},
        }
        yield {"event": "submitted", "at": stamp(n / 10 + 0.2), **job, "request_id": f"r-{n}"}
        yield {"event": "completed", "at": stamp(n / 10 + 30 + n % 17), **job, "cost_usd": 1.4}
        yield {"event": "done", "at": stamp(n / 10 + 31 + n % 17), **job, "files": [file]}


def stamp(seconds):
    whole, rest = divmod(seconds, 1)
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(1_767_225_600 + whole))
        + f".{int(rest * 1000):03d}Z"
    )


def make(path):
    (path / "media").mkdir()
    (path / "a.mp4").write_bytes(clip("a"))
    (path / "b.png").write_bytes(picture("b"))
    with (path / "ledger.jsonl").open("w") as file:
        for line in lines():
            file.write(json.dumps(line) + "\n")
    for n in range(JOBS):
        kind, source = ("mp4", "a.mp4") if n % 3 else ("png", "b.png")
        os.link(path / source, path / "media" / f"job-{n:05d}.{kind}")


async def latency(page, script, wait_ms=0):
    """Median of a few rounds, in milliseconds."""
    taken = [await page.js(LATENCY % (script, wait_ms)) - wait_ms for _ in range(ROUNDS)]
    return sorted(taken)[ROUNDS // 2]


async def look(path):
    type_in = "const box = document.getElementById('search'); box.value = '%s'; box.dispatchEvent(new Event('input'));"
    choose = "const list = document.querySelector('select[aria-label=%s]'); list.value = '%s'; list.dispatchEvent(new Event('change'));"
    async with browser() as page:
        await page.window(1360, 900)
        await page.open(path / "report.html")
        await page.until("performance.getEntriesByName('first-contentful-paint').length")
        print(
            f"first paint:        {await page.js('performance.getEntriesByName(`first-contentful-paint`)[0].startTime'):6.0f} ms"
        )
        print(
            f"ready to use:       {await page.js('Number(document.documentElement.dataset.ready)'):6.0f} ms"
        )
        print(
            f"search a word:      {await latency(page, type_in % 'heron', DEBOUNCE_MS):6.0f} ms (after {DEBOUNCE_MS} ms without a key)"
        )
        print(f"clear the search:   {await latency(page, type_in % '', DEBOUNCE_MS):6.0f} ms")
        print(f"filter a parameter: {await latency(page, choose % ('cfg_scale', '0.3')):6.0f} ms")
        await page.js(f"(() => {{ {choose % ('cfg_scale', '')} }})()")
        print(f"sort by time taken: {await latency(page, choose % ('Sort', 'slowest')):6.0f} ms")
        print(
            f"jump to the end:    {await latency(page, 'scrollTo(0, document.body.scrollHeight);'):6.0f} ms"
        )
        print(
            f"compare:            {await latency(page, 'document.getElementById(`tab-compare`).click();'):6.0f} ms"
        )
        print(
            f"plots:              {await latency(page, 'document.getElementById(`tab-plots`).click();'):6.0f} ms"
        )
        cards = await page.js("document.getElementsByTagName('*').length")
        print(f"elements in the page: {cards}; console errors: {len(page.errors)}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        make(path)
        began = time.perf_counter()
        write_report(path, LocalDisk(), SystemClock())
        size = (path / "report.html").stat().st_size
        print(
            f"report of {JOBS} outputs: written in {time.perf_counter() - began:.1f} s, {size / 1e6:.1f} MB"
        )
        if chromium() is None:
            print("no Chromium here, so the browser is not measured")
            return
        asyncio.run(look(path))


if __name__ == "__main__":
    main()

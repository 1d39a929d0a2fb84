"""The report as people meet it: opened from disk in a real browser, and its numbers."""

import json
import os
import re

import msgspec
import pytest
import pytest_asyncio

from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.jobs.job import Source
from batcher.jobs.lifecycle import EventName, State
from batcher.report.history import Move, TimedSnapshot
from batcher.report.page import embedded
from batcher.report.render import write_report
from batcher.report.series import series_of
from tests.support.browser import browser, chromium
from tests.support.dataset import RunMaker, clip, mixed_run, picture
from tests.support.engine import job

in_browser = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")
on_one_loop = pytest.mark.asyncio(loop_scope="module")
JOBS = "[...document.querySelectorAll('.card')].map((card) => card.dataset.job)"
TALLY = "document.getElementById('tally').textContent"


def report(path):
    return write_report(path, LocalDisk(), SystemClock())


def data_of(path):
    text = (path / "report.html").read_text("utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("batch")
    (root / "pictures").mkdir()
    (root / "pictures" / "in put.png").write_bytes(picture("in"))
    (root / "manifest.yaml").write_text("jobs: []")
    path = await mixed_run(root / "output" / "mixed")
    made = RunMaker(path)
    local = {"path": "pictures/in put.png", "sha256": "aa"}
    await made.done(
        job("edit", prompt="an edit", image_url="https://example.com/x.png", image=local),
        picture("e"),
        extension=".png",
    )
    await made.end()
    report(path)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chrome():
    async with browser() as page:
        yield page


@pytest_asyncio.fixture(loop_scope="module")
async def page(chrome, run_dir):
    chrome.errors.clear()
    chrome.requests.clear()
    await chrome.window(1280, 900)
    await chrome.call("Page.navigate", url="about:blank")
    await chrome.open(run_dir / "report.html")
    yield chrome
    await chrome.js("localStorage.clear()")
    assert chrome.errors == []
    assert [url for url in chrome.requests if not url.startswith(("file:", "data:"))] == []


@in_browser
@on_one_loop
async def test_it_opens_from_disk_and_its_videos_have_metadata(page):
    assert await page.js(TALLY) == "6 outputs, 3 jobs without one"
    await page.until(
        "[...document.querySelectorAll('.card video')].every((video) => video.duration > 1 && video.videoWidth === 320)"
    )
    assert await page.js("document.querySelectorAll('.card video').length") == 3
    await page.until("[...document.querySelectorAll('.card img')].every((img) => img.naturalWidth > 0)")


@in_browser
@on_one_loop
async def test_a_video_plays_under_the_mouse_and_stops_when_it_leaves(page):
    await page.hover(".card video")
    await page.until("!document.querySelector('.card video').paused")
    await page.hover("h1")
    await page.until("document.querySelector('.card video').paused")


@in_browser
@on_one_loop
async def test_a_prompt_with_markup_stays_text(page):
    prompts = await page.js("[...document.querySelectorAll('.prompt')].map((p) => p.textContent)")
    assert "a <script>alert(1)</script> dog" in prompts
    assert await page.js("document.querySelectorAll('main script, main b b').length") == 0
    assert await page.js("document.querySelectorAll('script').length") == 2


@in_browser
@on_one_loop
async def test_filters_search_and_sort_choose_what_is_shown(page):
    async def choose(label, value):
        await page.js(
            f"(() => {{ const select = document.querySelector('select[aria-label={label}]');"
            f" select.value = '{value}'; select.dispatchEvent(new Event('change')); }})()"
        )

    await choose("State", "failed")
    assert await page.js(JOBS) == ["lost"]
    await choose("State", "")
    await choose("split", "train")
    assert await page.js(JOBS) == ["fox", "lake", "lake"]
    assert "w.meta.split=train" in await page.js("location.hash")
    await choose("Sort", "prompt")
    assert await page.js(JOBS) == ["lake", "lake", "fox"]
    await page.js(
        "document.getElementById('search').value = 'A FOX'; document.getElementById('search').dispatchEvent(new Event('input'))"
    )
    await page.until(f"{JOBS}.join() === 'fox'")


@in_browser
@on_one_loop
async def test_the_input_stands_beside_the_output_and_a_remote_one_is_only_a_link(page):
    await page.js("document.querySelector('.card[data-job=edit]').click()")
    await page.until("document.querySelectorAll('dialog .pair img').length === 2")
    await page.until(
        "[...document.querySelectorAll('dialog .pair img')].every((img) => img.naturalWidth === 256)"
    )
    assert await page.js("document.querySelector('dialog dd a').href") == "https://example.com/x.png"


@in_browser
@on_one_loop
async def test_the_keyboard_is_enough(page):
    await page.js("document.querySelector('.card').focus()")
    await page.key("ArrowRight")
    assert await page.js("document.activeElement.dataset.job") == "v1.2"
    await page.key("x")
    assert await page.js("document.getElementById('save').textContent") == "Save 1 rejected id"
    assert await page.js(
        "JSON.parse(Object.entries(localStorage).find(([name]) => name.startsWith('batcher.marks'))[1])"
    ) == {"v1.2": {"mark": "reject", "note": None}}
    await page.key("Enter")
    await page.until("document.querySelector('dialog').open")
    await page.key("ArrowRight")
    await page.until("document.querySelector('dialog .say').textContent.startsWith('=cmd')")
    await page.key("Escape")
    await page.until("!document.querySelector('dialog').open")


@in_browser
@on_one_loop
async def test_rejects_are_saved_as_a_list_of_ids(page, tmp_path):
    await page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    await page.js(
        "for (const job of ['fox', 'short']) document.querySelector(`.card[data-job=${job}] .m-reject`).click()"
    )
    await page.js("document.getElementById('save').click()")
    saved = tmp_path / "rejects.txt"
    for _ in range(100):
        if saved.exists() and saved.read_text():
            break
        await page.js("new Promise((ok) => setTimeout(ok, 30))")
    assert saved.read_text() == "fox\nshort\n"


@in_browser
@on_one_loop
async def test_the_comparison_sets_outputs_over_two_parameters(page):
    await page.js("document.getElementById('tab-compare').click()")
    assert await page.js("document.querySelectorAll('.matrix thead th').length") >= 2
    await page.js("location.hash = 'tab=compare&rows=meta.split&cols=input.cfg_scale'")
    await page.until("document.querySelectorAll('.matrix tbody tr').length === 2")
    cells = await page.js(
        "[...document.querySelectorAll('.matrix td')].map((td) => td.querySelector('[data-job]')?.dataset.job || '')"
    )
    assert cells == ["", "v1.2", "fox", ""]


@in_browser
@on_one_loop
async def test_problems_come_with_reasons_and_remedies(page):
    await page.js("document.getElementById('tab-problems').click()")
    text = await page.js("document.getElementById('panel').textContent")
    for words in (
        "bad gateway",
        "batcher resolve",
        "refused </script><b>by</b> the model",
        "--retry-refused",
        "2 s instead of 10 s",
        "--redo",
    ):
        assert words in text


@in_browser
@on_one_loop
async def test_the_plots_are_drawn_in_light_and_dark_and_on_a_phone(page):
    await page.js("document.getElementById('tab-plots').click()")
    await page.until("document.querySelectorAll('.plot svg').length === 4")
    light = await page.js("getComputedStyle(document.body).backgroundColor")
    await page.window(390, 800, dark=True, phone=True)
    await page.until("[...document.querySelectorAll('.plot svg')].every((svg) => svg.clientWidth < 380)")
    assert await page.js("getComputedStyle(document.body).backgroundColor") != light
    assert await page.js("document.documentElement.scrollWidth <= innerWidth")


OVERFLOWING = """(() => [...document.querySelectorAll('body *')].flatMap((e) => {
    const style = getComputedStyle(e), scrolls = (way) => ['auto', 'scroll'].includes(way), name = e.className || e.tagName;
    return [scrolls(style.overflowX) && e.scrollWidth > e.clientWidth && `${name} sideways`,
      scrolls(style.overflowY) && e.scrollHeight > e.clientHeight && `${name} down`].filter(Boolean);
}))()"""


@in_browser
@on_one_loop
@pytest.mark.parametrize("width", [1400, 800, 400])
async def test_no_view_has_a_scrollbar_of_its_own_but_for_wide_comparisons_sideways(page, width):
    await page.window(width, 900)
    for tab in ("gallery", "compare", "problems", "plots"):
        await page.js(f"document.getElementById('tab-{tab}').click()")
        assert set(await page.js(OVERFLOWING)) <= {"matrix sideways"}, tab
        assert await page.js("document.documentElement.scrollWidth <= innerWidth")


CONTRASTS = """(() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
    const light = (rgb) => { const [r, g, b] = rgb.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const behind = (e) => { for (let at = e; at; at = at.parentElement) { const c = rgba(getComputedStyle(at).backgroundColor); if (c[3] > 220) return c.slice(0, 3); } };
    const poor = [];
    for (const e of document.querySelectorAll('body *')) {
        const says = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!says || !e.checkVisibility({ opacityProperty: true }) || e.closest('script, :disabled, option, svg, .clip')) continue;
        const [a, b] = [light(rgba(getComputedStyle(e).color).slice(0, 3)), light(behind(e))], ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) poor.push(`${e.tagName}.${e.className} ${e.textContent.slice(0, 20)} ${ratio.toFixed(1)}`);
    }
    return poor;
})()"""


@in_browser
@on_one_loop
@pytest.mark.parametrize("dark", [False, True])
async def test_every_text_can_be_read(page, dark):
    """At the contrast of 4.5 to 1 that WCAG 2.2 asks for (1.4.3)."""
    await page.window(1280, 900, dark=dark)
    await page.js("document.querySelector('.card[data-job=fox] .m-star').click()")
    for tab in ("gallery", "compare", "problems", "plots"):
        await page.js(f"document.getElementById('tab-{tab}').click()")
        assert await page.js(CONTRASTS) == [], tab
    await page.js("document.getElementById('tab-gallery').click()")
    for job_id in ("fox", "ghost", "lost"):
        await page.js(f"document.querySelector('.card[data-job={job_id}]').click()")
        assert await page.js(CONTRASTS) == []
        await page.js("document.querySelector('dialog').close()")


async def variants(path):
    """Two variables and an input that vary, a job without them, and an output that was deleted since."""
    made = RunMaker(path).begin(total=6)
    for place in ("snow", "grass"):
        for animal in ("fox", "dog"):
            one = job(f"{animal}-{place}", prompt=f"a {animal} in {place}", model="acme/film", seed=1)
            one = msgspec.structs.replace(
                one, vars={"animal": animal, "place": place, "seed": place[:2]}
            )
            await made.done(one, picture(one.id), extension=".png")
    plain = msgspec.structs.replace(job("plain", prompt="nothing", seed=2), source=Source("m.yaml", 2))
    await made.done(plain, picture("p"), extension=".png")
    await made.end()
    (path / "media" / "plain.png").unlink()
    report(path)
    return path / "report.html"


@in_browser
@on_one_loop
async def test_variables_of_templates_are_axes_and_filters(page, tmp_path):
    await page.open(await variants(tmp_path), "#tab=compare")
    axes = "[...document.querySelectorAll('.axes select')].map((select) => select.value)"
    heads = "[...document.querySelectorAll('.matrix th')].map((th) => th.textContent)"
    assert await page.js(axes) == ["var.place", "var.animal"]
    assert await page.js(heads) == ["place \\ animal", "dog", "fox", "grass", "snow"]
    assert "Not here: 1 output of jobs without place or animal." in await page.js(
        "document.getElementById('panel').textContent"
    )
    await page.js("document.getElementById('tab-gallery').click()")
    assert await page.js(JOBS) == ["fox-snow", "fox-grass", "dog-snow", "dog-grass", "plain"]
    labels = await page.js("[...document.querySelectorAll('select')].map((select) => select.ariaLabel)")
    assert labels[1:6] == ["Model", "animal", "place", "var.seed", "input.seed"]
    chips = await page.js("document.querySelector('.card[data-job=fox-snow] .chips').textContent")
    assert chips == "var.seedsninput.seed1"
    await page.js(
        "(() => { const s = document.getElementById('search'); s.value = 'sn'; s.dispatchEvent(new Event('input')); })()"
    )
    await page.until(f"{JOBS}.join() === 'fox-snow,dog-snow'")
    page.errors.clear()  # the deleted file's


@in_browser
@on_one_loop
@pytest.mark.parametrize("tab", ["gallery", "compare"])
async def test_no_text_is_cut_inside_an_emoji(page, tmp_path, tab):
    made = RunMaker(tmp_path / "run")
    for name, hand in [("yes", "👍"), ("no", "👎")]:
        await made.done(job(name, prompt="a hand", up=hand * 40, down=f"a{hand * 40}"), clip(name))
    await made.end()
    report(tmp_path / "run")
    await page.open(tmp_path / "run/report.html", f"#tab={tab}")
    assert "👍…" in await page.js("document.body.textContent")
    assert await page.js("document.body.textContent.isWellFormed()")


@in_browser
@on_one_loop
async def test_a_comparison_is_marked_by_key_and_keeps_its_titles_in_sight(page, tmp_path):
    await page.window(1280, 400)
    await page.open(await variants(tmp_path), "#tab=compare")
    await page.js("document.querySelector('.tilelet').focus()")
    await page.key("s")
    assert await page.js("document.querySelector('.tilelet .cap').textContent.includes('★')")
    await page.js("scrollTo(0, 600)")
    await page.until(
        "scrollY > 300 && document.querySelector('.matrix-head').getBoundingClientRect().top === 0"
    )
    page.errors.clear()


@in_browser
@on_one_loop
async def test_an_output_that_is_gone_is_told(page, tmp_path):
    await page.open(await variants(tmp_path))
    await page.until(
        "document.querySelector('.card[data-job=plain] .none')?.textContent.includes('plain.png')"
    )
    page.errors.clear()


@in_browser
@on_one_loop
async def test_the_enlarged_output_has_a_way_back_for_the_mouse_and_for_escape(page):
    await page.js("document.querySelector('.card').click()")
    await page.key("f")
    await page.js("document.querySelector('.tools button:last-child').click()")
    await page.until("document.querySelector('dialog .side') && !document.querySelector('dialog.full')")
    await page.key("f")
    await page.until("document.querySelector('dialog.full')")
    await page.key("Escape")
    await page.until("document.querySelector('dialog .side') && document.querySelector('dialog').open")


@in_browser
@on_one_loop
async def test_a_picture_is_shown_whole_whatever_its_shape(page):
    inside = """[...document.querySelectorAll('.thumb > img:not(.inset), .thumb > video')].every((e) => {
        const a = e.getBoundingClientRect(), b = e.parentElement.getBoundingClientRect();
        return getComputedStyle(e).objectFit === 'contain' && a.height <= b.height + 1 && a.width <= b.width + 1; })"""
    assert await page.js(inside)
    await page.js("document.getElementById('tab-compare').click()")
    assert await page.js(inside)


@in_browser
@on_one_loop
async def test_stars_notes_keys_and_ids_to_copy(page):
    await page.js("document.querySelector('.card[data-job=lake]').focus()")
    await page.key("s")
    assert await page.js("document.querySelector('.card[data-job=lake] .m-star').ariaPressed") == "true"
    await page.key("Enter")
    await page.js(
        "(() => { const n = byNote(); n.value = 'the light'; n.dispatchEvent(new Event('change')); function byNote() { return document.getElementById('note'); } })()"
    )
    await page.key("2")
    await page.until("document.querySelectorAll('dialog .two .stage').length === 2")
    assert await page.js("document.querySelector('dialog .copy').textContent") == "lake"
    await page.key("Escape")
    kept = await page.js(
        "JSON.parse(Object.entries(localStorage).find(([name]) => name.startsWith('batcher.marks'))[1])"
    )
    assert kept == {"lake": {"mark": "star", "note": "the light"}}
    await page.js("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '?', bubbles: true}))")
    await page.until("document.getElementById('keys').open")


def test_data_in_a_script_element_can_not_leave_it():
    nasty = {"a": "</script><!--&\u2028\u2029"}
    text = embedded(nasty)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == nasty


async def test_a_run_directory_whose_name_is_not_utf_8_has_a_report(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        path.mkdir()
    except OSError:
        pytest.skip("no such names here")
    made = RunMaker(path).begin(total=1)
    made.submitted(job("a"))
    await made.end()
    assert report(path).total == 1
    assert "<title>caf\\xe9" in (path / "report.html").read_text("utf-8")


async def test_a_live_or_crashed_run_without_outputs_has_a_report(tmp_path):
    made = RunMaker(tmp_path).begin(total=3)
    made.submitted(job("a"))
    await made._settle()
    status = report(tmp_path)
    assert (status.submitted, status.pending) == (1, 2)
    assert data_of(tmp_path)["series"]["states"]["submitted"][-1] == 1
    await made.ledger.close()


async def test_jobs_stand_in_the_order_in_which_they_were_submitted_whenever_they_ended(tmp_path):
    made = RunMaker(tmp_path).begin(total=3)
    for name in "bca":
        made.submitted(job(name))
    await made.done(job("c"), clip("c"))
    await made.end()
    report(tmp_path)
    assert [one["job"] for one in data_of(tmp_path)["jobs"]] == ["b", "c", "a"]


async def test_paths_are_relative_so_the_folder_can_move(tmp_path):
    made = RunMaker(tmp_path / "a").begin(total=1)
    await made.done(job("x"), clip("x"))
    moved = (await made.end()).rename(tmp_path / "b")
    report(moved)
    assert data_of(moved)["jobs"][0]["files"][0]["path"] == "media/x.mp4"


def test_the_timeline_is_thinned_out_and_long_idle_time_is_named():
    history = TimedSnapshot()
    for n in range(5000):
        history.moves.append(Move(n * 1000, State.PENDING, State.DONE, n / 10))
    history.moves.append(Move(90_000_000, State.PENDING, State.DONE, 501.0))
    series = series_of(history, 6000)
    assert len(series["states"]["at"]) < 260
    assert series["states"]["done"][-1] == 5001
    assert series["gaps"] == [(4_999_000, 90_000_000)]


async def test_an_empty_ledger_makes_a_page_too(tmp_path):
    (tmp_path / "ledger.jsonl").write_bytes(b"")
    assert report(tmp_path).total == 0


async def test_incidents_are_counted_by_kind(tmp_path):
    made = RunMaker(tmp_path).begin(total=1)
    made.submitted(job("a"))
    made.event(EventName.DEFERRED, "a", reason="429")
    made.event(EventName.SUBMITTING, "a", attempt=2)
    made.event(EventName.UNANSWERED, "a", code=502, message="x")
    await made._settle()
    report(tmp_path)
    kinds = data_of(tmp_path)["series"]["incidents"]["kinds"]
    assert {kind: sum(counts) for kind, counts in kinds.items()} == {
        "turned away": 1,
        "no answer": 1,
        "another attempt": 1,
    }
    await made.ledger.close()

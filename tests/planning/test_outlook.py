"""What a plan foresees: its price and how that comes about, its duration, and trouble with media URLs."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batcher.app.check_urls import check_urls, problem_of
from batcher.app.plan import Forecast, forecast
from batcher.cli.plan_view import formula
from batcher.disk import LocalDisk
from batcher.download.lookup import Looked, Lookup, LookupLimits
from batcher.download.trust import TrustPolicy
from batcher.download.way import Way
from batcher.jobs.job import LocalMedia, Source
from batcher.ledger.ledger import read_snapshot
from batcher.manifest.media import is_public_url
from batcher.options.facts import JobShare
from batcher.planning.media_urls import MediaUrl, UrlWatch, expires_at, looks_private, media_urls
from batcher.planning.survey import CanaryChoice, Estimate
from batcher.schema.spec import KLING, ModelSpec
from tests.support.engine import Batch, in_virtual_time, job, some_jobs
from tests.support.media_server import PNG, MediaServer, Reply

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def priced(unit, base_usd=0.28, **fields):
    return ModelSpec(
        "m",
        "catalogue",
        {"type": "object", "properties": fields},
        base_price_usd=base_usd,
        price_unit=unit,
    )


def told(spec, *inputs, assume=None):
    estimate = Estimate({"m": spec} if spec else {}, assume)
    for one in inputs:
        estimate.add([job("x", model="m", **one)])
    return [formula(line, count) for line, count in estimate.lines.items()]


DURATION = {"type": "integer", "default": 5}
# Values that Python takes for equal, and a price doesn't: 1 and True, 1 and "1".
UNITS = st.sampled_from([0, 1, 1.0, True, False, "1", "5", "five", None, 5, 10, [1], {"a": 1}, -1])


class TestEstimate:
    def test_jobs_that_are_priced_alike_make_one_line(self):
        lines = told(priced("second", duration=DURATION), {}, {"duration": 5}, {"duration": 10})
        assert lines == ["2 × 5 s × $0.28/s = $2.80", "1 × 10 s × $0.28/s = $2.80"]

    def test_outputs_are_counted_where_a_field_says_how_many(self):
        spec = priced("per image", 0.03, num_images={"type": "integer", "default": 1})
        assert told(spec, {}, {"num_images": 4}) == [
            "1 × $0.03/image = $0.03",
            "1 × 4 images × $0.03/image = $0.12",
        ]

    def test_a_unit_that_nobody_understands_is_named_and_not_guessed(self):
        assert told(priced("thousand_characters"), {}) == [
            "1 × unknown ($0.28 per thousand_characters: that unit is not understood)"
        ]

    def test_a_duration_that_nobody_gives_is_not_guessed(self):
        assert told(priced("second"), {}) == [
            "1 × unknown ($0.28 per second: but how many is not known)"
        ]

    def test_without_a_price_it_is_unknown_unless_one_is_assumed(self):
        assert told(None, {}) == ["1 × unknown (no price is known)"]
        assert told(None, {}, {}, assume=1.5) == ["2 × $1.50 (--assume-price) = $3.00"]

    @given(st.floats(0.001, 100), st.integers(1, 60), st.integers(1, 10))
    def test_a_quote_is_what_its_factors_come_to(self, base_usd, seconds, outputs):
        spec = priced("seconds", base_usd, duration=DURATION, num_videos={"type": "integer"})
        quote = spec.quote({"duration": seconds, "num_videos": outputs})
        assert quote.usd == pytest.approx(base_usd * seconds * outputs, abs=1e-8)

    @given(st.lists(st.tuples(UNITS, UNITS), min_size=1, max_size=20))
    @example([(1, 5), (True, 5), (1.0, 5), ("1", 5)])
    @example([([1], 5), (1, 5)])
    def test_jobs_priced_together_cost_what_each_costs_alone(self, jobs):
        spec = priced("second", 0.5, duration={"type": "integer"}, num_images={"type": "integer"})
        one_by_one = Counter()
        for duration, count in jobs:
            alone = Estimate({"m": spec})
            alone.add([job("x", model="m", duration=duration, num_images=count)])
            one_by_one += alone.lines
        together = Estimate({"m": spec})
        prices = together.add([job("x", model="m", duration=d, num_images=n) for d, n in jobs])
        assert together.lines == one_by_one
        assert prices == [spec.price_usd({"duration": d, "num_images": n}) for d, n in jobs]

    def test_asking_for_a_price_does_not_count_the_job(self):
        estimate = Estimate({"m": priced("second", duration=DURATION)})
        assert estimate.price_usd(job("x", model="m")) == 1.4
        assert estimate.lines == {}


class TestForecast:
    def test_it_is_the_median_of_each_model_at_the_given_concurrency(self):
        seen_s = {"a": [10.0, 20.0, 900.0], "b": [60.0]}
        assert forecast({"a": 30, "b": 10}, seen_s, 8) == Forecast((30 * 20 + 10 * 60) / 8, 4)

    def test_it_is_never_shorter_than_one_job(self):
        assert forecast({"a": 1}, {"a": [20.0]}, 8).duration_s == 20.0

    def test_a_model_that_was_never_seen_makes_it_unknown(self):
        assert forecast({"a": 1, "b": 1}, {"a": [20.0]}, 8) == Forecast(None, 1)
        assert forecast({}, {}, 8).duration_s is None


@in_virtual_time
async def test_durations_come_from_the_ledger(tmp_path):
    batch = Batch(tmp_path)
    batch.api.takes_s = 30.0
    ended = await batch.run(some_jobs(3))
    assert ended.states == {"done": 3}
    snapshot = read_snapshot(tmp_path, LocalDisk())
    (seen,) = snapshot.timings.by_model().values()
    assert len(seen) == 3
    assert all(30 <= one <= 50 for one in seen)


class TestMediaUrls:
    def test_only_what_the_api_has_to_fetch_counts(self):
        local = LocalMedia("/x.png", "x.png", "0" * 64, 3, "image/png")
        one = job(
            "x", model=KLING.model_id, image_url="https://a.com/x.png", prompt="https://b.com/no.png"
        )
        assert [(m.url, m.kind) for m in media_urls(one, KLING)] == [("https://a.com/x.png", "image")]
        assert (
            list(media_urls(job("x", image_url=local, video_url="data:video/mp4;base64,AA=="), None))
            == []
        )

    def test_without_a_schema_names_tell(self):
        one = job(
            "x", image_urls=["https://a.com/1.png", "https://a.com/2.png"], style="https://a.com/no"
        )
        assert [m.url[-5:] for m in media_urls(one, None)] == ["1.png", "2.png"]

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("X-Amz-Date=20260131T110000Z&X-Amz-Expires=3600&X-Amz-Signature=ab", NOW),
            ("x-goog-date=20260131T110000Z&x-goog-expires=60", NOW - timedelta(seconds=3540)),
            (f"Expires={int(NOW.timestamp())}&Signature=x&Key-Pair-Id=y", NOW),
            ("se=2026-01-31T12%3A00%3A00Z&sig=abc&sp=r", NOW),
            ("se=2026-01-31&sig=abc", NOW - timedelta(hours=12)),
            ("se=sweden", None),
            ("Expires=soon", None),
            ("X-Amz-Date=20261331T000000Z&X-Amz-Expires=1", None),
            ("Expires=99999999999999999999", None),
        ],
    )
    def test_the_expiry_of_a_signed_url_is_read(self, query, expected):
        assert expires_at(f"https://bucket.example.com/x.png?{query}") == expected

    @pytest.mark.parametrize(
        "host",
        ["files.corp", "minio.internal.acme.com", "nas.lan.acme.com", "x.test", "a.intranet.b.c:8443"],
    )
    def test_a_name_may_sound_private(self, host):
        assert looks_private(f"https://{host}/x.png")

    @pytest.mark.parametrize(
        "host", ["example.com", "internal.com", "corporate.example.com", "cdn.acme.io"]
    )
    def test_most_names_do_not(self, host):
        assert not looks_private(f"https://{host}/x.png")

    def test_of_a_job_s_urls_those_are_watched_that_may_not_be_fetched(self):
        urls = [
            "https://cdn.acme.io/1.png",
            "https://nas.lan.acme.com/2.png",
            f"https://a.com/3.png?Expires={int(NOW.timestamp())}",
            "https://a.com/4.png?size=2",
        ]
        watch = UrlWatch()
        watch.look_at([job("x", image_urls=urls, prompt="https://files.corp/5.png")], None)
        private, expiring = watch.warnings(NOW, 60.0)
        assert private.startswith("1 media URL is on hosts")
        assert "image_urls: https://nas.lan.acme.com/2.png" in private
        assert expiring.startswith("1 media URL is signed and expires")
        assert "https://a.com/3.png" in expiring

    @pytest.mark.parametrize(
        ("url", "is_page"),
        [
            ("drive.google.com/file/d/1AbC/view?usp=sharing", True),
            ("drive.google.com/open?id=1AbC", True),
            ("drive.google.com/uc?export=download&id=1AbC", False),
            ("photos.app.goo.gl/abc", True),
            ("www.dropbox.com/s/abc/cat.png?dl=0", True),
            ("www.dropbox.com/s/abc/cat.png", True),
            ("www.dropbox.com/scl/fi/abc/cat.png?rlkey=x&raw=1", False),
            ("dl.dropboxusercontent.com/s/abc/cat.png", False),
            ("github.com/acme/pets/blob/main/cat.png", True),
            ("github.com/acme/pets/raw/main/cat.png", False),
            ("GitHub.com/acme/pets/blob/main/cat.png?raw=true", False),
            ("raw.githubusercontent.com/acme/pets/main/cat.png", False),
            ("huggingface.co/datasets/acme/pets/blob/main/cat.png", True),
            ("huggingface.co/datasets/acme/pets/resolve/main/cat.png", False),
            ("imgur.com/a/AbC", True),
            ("imgur.com/AbC.png", False),
            ("example.com/drive.google.com/file/d/1AbC/view", False),
        ],
    )
    def test_a_link_to_a_page_that_shows_a_file_is_told_from_one_to_the_file(self, url, is_page):
        watch = UrlWatch()
        watch.look_at([job("x", image_url=f"https://{url}")], None)
        told = [line for line in watch.warnings(NOW, 60.0) if "use its direct link" in line]
        assert len(told) == is_page
        assert not told or told[0].startswith("1 media URL is probably of a page that shows a file")

    @pytest.mark.parametrize(
        "odd",
        [
            "https://nas.lan.acme.com/2.png",
            "https://files.corp",
            "https://imgur.com/a/AbC",
            "https://a.com/3.png?Expires=1",
            ["https://files.corp/a.png"],
            LocalMedia("/x.png", "x.png", "0" * 64, 3, "image/png"),
            None,
        ],
    )
    def test_urls_of_many_jobs_are_looked_at_like_those_of_each(self, odd):
        fields = {"image_url": {"type": "string"}, "images": {"type": "array"}}
        spec = priced("image", **fields)
        name = "images" if isinstance(odd, list) else "image_url"
        inputs = [{"image_url": f"https://a.com/{n}.png"} for n in range(9)]
        inputs[4] = {name: odd} if odd is not None else {}
        jobs = [job(f"x-{n}", **one) for n, one in enumerate(inputs)]
        together, alone = UrlWatch(), UrlWatch()
        together.look_at(jobs, spec)
        for one in jobs:
            alone.look_at([one], None)
        assert together == alone
        assert [*together.warnings(NOW, 60.0)] or not isinstance(odd, str | list)

    def test_warnings_count_and_name_the_soonest_without_its_signature(self):
        watch = UrlWatch()
        for number in range(10):
            expiry = int(NOW.timestamp()) + 600 * number
            url = f"https://a.com/{number}.png?Expires={expiry}&Signature=secret"
            watch.add(MediaUrl(url, "image", "image_url", Source("m.csv", number)))
        (warning,) = watch.warnings(NOW, duration_s=1500.0)
        assert warning.startswith("3 media URLs are signed and expire before the run's likely end")
        assert "m.csv:0: image_url: https://a.com/0.png?" in warning
        assert "secret" not in warning
        assert "within the hour" in next(watch.warnings(NOW, None))
        assert list(watch.warnings(NOW - timedelta(days=1), 60.0)) == []


class FakeLookup:
    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    async def look(self, url):
        self.asked.append(url)
        await asyncio.sleep(0)
        return self.answers.get(
            url.rpartition("/")[2].partition(".")[0], Looked(None, "image/png", 1000)
        )


def image(name, kind="image"):
    return MediaUrl(f"https://a.com/{name}.png", kind, "image_url", Source("m.csv", 2))


class TestUrlChecks:
    async def test_each_distinct_url_is_asked_about_once(self):
        lookup = FakeLookup(b=Looked("does not exist (404)"))
        report = await check_urls([image("a"), image("b"), image("a"), image("b")] * 50, lookup)
        assert sorted(lookup.asked) == ["https://a.com/a.png", "https://a.com/b.png"]
        assert (report.checked, report.problem_count) == (2, 1)
        assert report.problems == ["m.csv:2: image_url: https://a.com/b.png: does not exist (404)"]

    async def test_an_error_of_the_manifest_comes_through_as_it_is(self):
        def rows():
            yield image("a")
            raise KeyError("changed")

        with pytest.raises(KeyError):
            await check_urls(rows(), FakeLookup())

    @pytest.mark.parametrize(
        ("looked", "kind", "expected"),
        [
            (Looked(None, "image/png", 50_000_000), "image", None),
            (
                Looked(None, "image/png", 50_000_001),
                "image",
                "has 50.0 MB; the API takes images up to 50 MB",
            ),
            (Looked(None, "video/mp4", 99_000_000), "video", None),
            (
                Looked(None, "video/mp4", 163_000_000),
                "video",
                "has 163.0 MB; the API takes videos up to 100 MB",
            ),
            (Looked(None, "text/html", 10), "image", "is text/html, not image"),
            (Looked(None, "application/octet-stream", 10), "image", None),
            (Looked(None, "video/mp4", None), None, None),
            (Looked(None, None, None), "audio", None),
        ],
    )
    def test_type_and_size_are_held_against_the_field(self, looked, kind, expected):
        assert problem_of(image("a", kind), looked) == expected


@asynccontextmanager
async def looking(*replies, allowed=lambda url: True, **limits):
    policy = TrustPolicy(("http://127.0.0.1",))
    async with (
        MediaServer(*replies) as server,
        Lookup(policy, allowed, LookupLimits(**limits)) as lookup,
    ):
        yield server, lookup


HEADERS = {"Content-Type": "image/png; charset=x", "Content-Length": "2048"}


def to_head(answer, otherwise):
    return lambda request: answer if request.method == "HEAD" else otherwise


class TestLookup:
    async def test_a_head_tells_type_and_size(self):
        async with looking(Reply(headers=HEADERS, length=-1)) as (server, lookup):
            assert await lookup.look(server.url) == Looked(None, "image/png", 2048)
        assert [request.method for request in server.requests] == ["HEAD"]
        assert "authorization" not in server.requests[0].headers

    @pytest.mark.parametrize("status", [403, 405, 501])
    async def test_where_head_is_refused_one_byte_is_asked_for(self, status):
        byte = Reply(206, PNG[:1], {"Content-Type": "image/png", "Content-Range": "bytes 0-0/4096"})
        async with looking(to_head(Reply(status), byte)) as (server, lookup):
            assert await lookup.look(server.url) == Looked(None, "image/png", 4096)
        assert server.requests[1].headers["range"] == "bytes=0-0"

    async def test_a_server_that_ignores_the_range_is_not_read_to_the_end(self):
        body = Reply(200, PNG, {"Content-Type": "image/png"}, length=10**9)
        async with looking(to_head(Reply(405), body)) as (server, lookup):
            assert (await lookup.look(server.url)).size_bytes == 10**9

    async def test_what_is_gone_is_not_asked_for_twice(self):
        async with looking(Reply(404)) as (server, lookup):
            assert (await lookup.look(server.url)).problem == "does not exist (404)"
        assert len(server.requests) == 1

    async def test_a_redirect_is_followed_where_it_is_allowed(self):
        async with looking(
            Reply(302, headers={"Location": "/b.png"}), Reply(headers=HEADERS, length=-1)
        ) as (server, lookup):
            assert (await lookup.look(server.url)).problem is None
        assert server.requests[1].target == "/b.png"

    async def test_a_redirect_into_the_house_is_not(self):
        async with looking(
            Reply(302, headers={"Location": "https://169.254.169.254/latest"}),
            allowed=lambda url: "169" not in url,
        ) as (server, lookup):
            assert "public HTTPS URL" in (await lookup.look(server.url)).problem

    async def test_a_redirect_without_an_end_is_given_up(self):
        async with looking(Reply(302, headers={"Location": "/a.png"})) as (server, lookup):
            assert "without an end" in (await lookup.look(server.url)).problem

    async def test_a_name_that_leads_into_the_house_is_refused(self):
        policy = TrustPolicy(("https://api.example.com",))
        async with Lookup(policy, is_public_url, way=Way(resolver=StaticResolver("10.0.0.7"))) as lookup:
            assert (
                "not a public address" in (await lookup.look("https://media.example.com/a.png")).problem
            )

    async def test_what_is_not_public_is_never_connected_to(self):
        async with Lookup(TrustPolicy(("https://api.example.com",)), is_public_url) as lookup:
            for url in (
                "http://example.com/a.png",
                "https://127.0.0.1/a.png",
                "https://[::1]/a",
                "https://localhost/x",
            ):
                assert "public HTTPS URL" in (await lookup.look(url)).problem

    async def test_silence_has_an_end(self):
        async with looking(Reply(hang=True, length=-1, body=b""), timeout_s=0.05) as (server, lookup):
            pass
        async with Lookup(
            TrustPolicy(("http://127.0.0.1",)), lambda url: True, LookupLimits(timeout_s=0.5)
        ) as lookup:
            assert "can't be reached" in (await lookup.look(f"http://127.0.0.1:{server.port}/x")).problem

    async def test_one_host_gets_few_requests_at_a_time(self):
        async with looking(Reply(headers=HEADERS, length=-1), per_host=2) as (server, lookup):
            await asyncio.gather(*(lookup.look(f"{server.origin}/{n}.png") for n in range(12)))
        assert server.most_at_once <= 2


class StaticResolver:
    def __init__(self, address):
        self.address = address

    async def resolve(self, host, port=0, family=0):
        return [
            {"hostname": host, "host": self.address, "port": port, "family": 2, "proto": 0, "flags": 0}
        ]

    async def close(self): ...


class TestCanaryChoice:
    @given(
        st.integers(1, 12),
        st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([5, 10])), max_size=40),
    )
    def test_it_takes_as_many_as_there_are_and_of_every_model(self, count, kinds):
        choice = CanaryChoice(count)
        jobs = [job(f"j{n}", model=model, duration=seconds) for n, (model, seconds) in enumerate(kinds)]
        for one in jobs:
            choice.add(one)
        chosen = [one for one in jobs if one.id in choice.ids()]
        assert len(chosen) == min(count, len(jobs))
        assert len({one.model for one in chosen}) == min(count, len({one.model for one in jobs}))
        if count >= 4:
            assert {(o.model, o.input["duration"]) for o in chosen} == {
                (o.model, o.input["duration"]) for o in jobs
            }

    def test_prompts_seeds_and_media_make_no_combination(self):
        choice = CanaryChoice(2)
        for number in range(100):
            choice.add(
                job(
                    f"j{number}",
                    prompt=f"p{number}",
                    seed=number,
                    image_url=f"https://a.com/{number}.png",
                    duration=5,
                )
            )
        choice.add(job("other", duration=10))
        assert "other" in choice.ids()

    def test_a_share_is_passed_only_above_it(self):
        assert [JobShare(20, percent=True).is_passed(n, 10) for n in (1, 2, 3)] == [False, False, True]
        assert [JobShare(2).is_passed(n, 3) for n in (2, 3)] == [False, True]
        assert (str(JobShare(20, percent=True)), str(JobShare(2))) == ("20%", "2")

"""What makes two rows one job, and what keeps them apart."""

import base64
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.jobs.identity import (
    Spellings,
    canonical,
    digest_of,
    digests_of,
    generated_id,
    generated_ids,
    input_digest,
    matrix_digest,
    slug,
    slugs,
    spelled_each,
)
from batcher.jobs.job import LocalMedia, recorded
from batcher.jobs.signatures import mask_url, without_signature
from batcher.schema.spec import ModelSpec

CAT = LocalMedia("/home/me/cat.png", "cat.png", "ab" * 32, 12, "image/png")
AMZ = "X-Amz-Algorithm=A&X-Amz-Credential=c&X-Amz-Date=d&X-Amz-Expires=9&X-Amz-SignedHeaders=h"
AMZ = f"{AMZ}&X-Amz-Signature=s"
SIGNED = {
    "aws v4": AMZ,
    "aws v4, with a session token": f"X-Amz-Security-Token=t&{AMZ}",
    "aws v2": "AWSAccessKeyId=a&Signature=s&Expires=9",
    "google v4": AMZ.replace("Amz", "Goog"),
    "google v2": "GoogleAccessId=a&Expires=9&Signature=s",
    "azure": "sv=2022&st=1&se=2&sr=b&sp=r&sig=zzz",
    "azure, stored policy": "sv=2022&si=policy&sr=b&sig=zzz",
    "azure, user delegation": "sv=1&se=2&sr=b&sp=r&skoid=1&sktid=2&skt=3&ske=4&sks=b&skv=5&sig=z",
    "cloudfront, canned": "Expires=9&Signature=s&Key-Pair-Id=k",
    "cloudfront, custom": "Policy=p&Signature=s&Key-Pair-Id=k&Hash-Algorithm=SHA256",
    "oss v1": "OSSAccessKeyId=a&Expires=9&Signature=s",
    "oss v4": "x-oss-signature-version=4&x-oss-credential=c&x-oss-date=d&x-oss-expires=9&x-oss-signature=s",
}
SPEC = ModelSpec.from_catalogue(
    {
        "model_id": "m",
        "input_schema": {
            "properties": {
                "prompt": {"type": "string"},
                "style": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "seed": {"type": "integer"},
                "scale": {"type": "float"},
                "flag": {"type": "boolean"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "sizes": {"type": "array", "items": {"type": "integer"}},
                "camera": {"type": "object", "properties": {"name": {"type": "string"}}},
                "either": {"type": ["string", "number"]},
                "image_url": {"type": "string", "format": "image_uri"},
            }
        },
    }
)


def digest(**inputs):
    return input_digest("m", inputs, SPEC.spellings)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (5, 5.0),
        (5, "5"),
        ("5.0", 5),
        ("5e0", 5),
        (-0.0, 0),
        (True, "TRUE"),
        ([1, "2"], ["1", 2.0]),
        (["a.png", "b.png"], '["a.png", "b.png"]'),
        ({"a": 1, "b": None}, {"a": "1"}),
        ("a\r\nb", "a\nb"),
        ("a\rb", "a\nb"),
        ("1\r", "1\n"),
        (CAT, CAT.record()),
        (CAT, LocalMedia("/elsewhere/copy.png", "copy.png", "ab" * 32, 12, "image/png")),
    ],
)
def test_spellings_of_one_value_of_unknown_type_are_one(one, other):
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("3", "3.0"), ("1000", "1e3"), ("true", "TRUE"), ("[1]", "[ 1 ]"), ("a", "A"), ("é", "e\u0301")],
)
@pytest.mark.parametrize("field", ["prompt", "style"])
def test_texts_of_a_text_field_are_compared_as_text(field, one, other):
    assert digest(**{field: one}) != digest(**{field: other})
    assert digest(tags=[one]) != digest(tags=[other])
    assert digest(camera={"name": one}) != digest(camera={"name": other})


@pytest.mark.parametrize("field", ["prompt", "style"])
def test_line_ends_of_a_text_are_one(field):
    assert digest(**{field: "a\r\nb\rc"}) == digest(**{field: "a\nb\nc"})
    assert digest(**{field: "a\nb"}) != digest(**{field: "a\n\nb"})


def test_numbers_are_compared_by_value_where_the_field_is_a_number_or_of_unknown_type():
    assert digest(seed=5) == digest(seed=5.0) == digest(seed="5")
    assert digest(either=5) == digest(either="5.0")
    assert digest(nowhere=5) == digest(nowhere="5.0")
    assert digest(sizes=[5]) == digest(sizes=[5.0])
    assert digest(flag=True) == digest(flag="true")


def test_a_prompt_is_text_also_where_no_schema_is_known():
    assert input_digest("m", {"prompt": "3"}) != input_digest("m", {"prompt": "3.0"})
    assert input_digest("m", {"negativePrompt": "3"}) != input_digest("m", {"negativePrompt": "3.0"})
    assert input_digest("m", {"prompt": "3"}) == digest(prompt="3")


@pytest.mark.parametrize("scheme", SIGNED)
def test_a_complete_signature_of_a_known_scheme_does_not_count(scheme):
    url, query = "https://x.org/a.png", SIGNED[scheme]
    assert without_signature(f"{url}?{query}") == url
    assert without_signature(f"{url}?v=2&{query}&w=3#t") == f"{url}?v=2&w=3#t"
    signed_again = query.replace("=s", "=S").replace("=9", "=10")
    assert digest(image_url=f"{url}?{query}") == digest(image_url=f"{url}?{signed_again}")


@pytest.mark.parametrize("scheme", SIGNED)
def test_a_signature_that_lacks_a_part_or_repeats_one_counts_as_it_is(scheme):
    pairs = SIGNED[scheme].split("&")
    signature = next(
        pair for pair in pairs if pair.lower().partition("=")[0].endswith(("signature", "sig"))
    )
    name = signature.partition("=")[0]
    for query in (
        "&".join(pair for pair in pairs if pair != signature),
        "&".join([*pairs, f"{name}=other"]),
        "&".join(f"{name}=" if pair == signature else pair for pair in pairs),
    ):
        assert without_signature(f"https://x.org/a?{query}") == f"https://x.org/a?{query}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x-oss-process=video/snapshot,t_1000", "x-oss-process=video/snapshot,t_60000"),
        ("token=1", "token=2"),
        ("sig=1", "sig=2"),
        ("policy=a", "policy=b"),
        ("Expires=1&Signature=a", "Expires=1&Signature=b"),
        ("st=1&sig=2", "st=3&sig=2"),
        ("X-Amz-Signature=a", "X-Amz-Signature=b"),
        (f"{AMZ}&versionId=1", f"{AMZ}&versionId=2"),
        (f"{AMZ}&response-content-type=a", f"{AMZ}&response-content-type=b"),
        (f"{SIGNED['azure']}&snapshot=1", f"{SIGNED['azure']}&snapshot=2"),
        (f"{SIGNED['azure']}&rsct=a", f"{SIGNED['azure']}&rsct=b"),
        (f"{SIGNED['oss v4']}&x-oss-process=a", f"{SIGNED['oss v4']}&x-oss-process=b"),
        ("hdnts=exp=1", "hdnts=exp=2"),
    ],
)
def test_a_parameter_that_may_choose_what_is_fetched_counts(one, other):
    assert digest(image_url=f"https://x.org/a?{one}") != digest(image_url=f"https://x.org/a?{other}")


def test_text_that_only_begins_with_a_signed_url_is_text():
    one, other = (f"https://x.org/a?Policy={p}&Signature=s&Key-Pair-Id=k says so" for p in "ab")
    assert digest(prompt=one) != digest(prompt=other)


def test_what_is_masked_shows_what_is_fetched_and_no_secret():
    assert mask_url("https://x.org/a?x-oss-process=image/resize&token=t#f") == (
        "https://x.org/a?x-oss-process=image/resize&token=***#f"
    )
    assert "=s" not in mask_url(f"https://x.org/a?{AMZ}")
    assert mask_url("https://x.org/a?X-Amz-Signature=s") == "https://x.org/a?X-Amz-Signature=***"


def test_a_data_uri_is_the_file_that_it_holds():
    content = b"some bytes"
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    assert canonical(uri, True) == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert digest(image_url=uri) == digest(image_url=recorded(uri))


def test_the_digest_covers_the_model_and_ignores_order_nulls_and_the_case_of_names():
    digest = input_digest("a/b", {"x": 1, "y": "z"})
    assert digest == input_digest("a/b", {"y": "z", "x": "1", "w": None})
    assert digest == input_digest("a/b", {"X": 1, "y": "z"})
    assert digest != input_digest("a/c", {"x": 1, "y": "z"})


def test_two_names_that_differ_only_by_case_are_two_inputs():
    assert input_digest("m", {"A": 1, "a": 2}) != input_digest("m", {"A": 3, "a": 2})
    assert input_digest("m", {"A": 1, "a": None}) == input_digest("m", {"a": 1})


def test_digests_are_those_that_ledgers_hold():
    """A change of these numbers makes everybody's jobs strangers to their ledgers."""
    inputs = {
        "prompt": "a cat",
        "image_url": "https://x.org/a.png?sig=1",
        "duration": 5,
        "on": [True, 0.5],
    }
    assert input_digest("kling/kling-2-1/master/image-to-video", inputs) == "326e68cb8b107c64"
    assert matrix_digest({"animal": "a fox"}) == "6c2fc16e"
    assert matrix_digest({"animal": "a fox"}, 1) == "6c2fc16e"


@pytest.mark.parametrize("text", ["1e9999999999999999999", "1e9999", "-1e-9999", "9" * 5000, "[" * 5000])
def test_every_text_has_an_identity(text):
    assert input_digest("m", {"x": text}) == input_digest("m", {"x": text})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat, jumping!", "a-cat-jumping"),
        ("  --  ", "job"),
        ("", "job"),
        ("Crème brûlée", "creme-brulee"),
        ("Cre\u0300me", "creme"),
        ("一只猫在屋顶上", "一只猫在屋顶上"),
        ("猫が跳ぶ", "猫が跳ぶ"),
        ("Кот на крыше, йод", "кот-на-крыше-йод"),
        ("قطة على السطح", "قطة-على-السطح"),
        ("고양이", "고양이"),
        ("छत पर बिल्ली", "छत-पर-बिल्ली"),
        ("\u202eevil\u202c \u200f\u200e", "evil"),
        ("😀 cat", "cat"),
        ("😀", "job"),
        ("a/b\\c:d*e", "a-b-c-d-e"),
        ("é/..\x00", "e"),
        ("ＡＢＣ １２", "abc-12"),
        ("x" * 50, "x" * 40),
        ("猫" * 50, "猫" * 26),
    ],
)
def test_a_slug_says_something_in_every_script_and_is_safe_as_a_file_name(text, expected):
    assert slug(text) == expected


def test_a_generated_id_begins_with_the_prompt():
    assert generated_id({"prompt": "A cat"}, "0" * 16) == f"a-cat-{'0' * 16}"
    assert generated_id({}, "0" * 16) == f"job-{'0' * 16}"
    assert generated_id({"prompt": "猫"}, "0" * 16, 1) == f"job-{'0' * 16}"


_TEXT = st.text(alphabet="ab 1.0e-\r\n[]tTrRuUeE", max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, 5.0]) | _TEXT,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(_TEXT, _TEXT)
@settings(max_examples=200)
def test_two_texts_are_one_input_exactly_if_they_are_equal_but_for_line_ends(one, other):
    def lines(text):
        return text.replace("\r\n", "\n").replace("\r", "\n")

    assert (digest(prompt=one) == digest(prompt=other)) == (lines(one) == lines(other))


@given(st.dictionaries(st.sampled_from(["p", "q", "r"]), _JSON), st.randoms())
@settings(max_examples=100)
def test_order_and_json_spelling_make_no_other_job(inputs, rng):
    shuffled = [*inputs.items()]
    rng.shuffle(shuffled)
    again = json.loads(json.dumps(dict(shuffled)))
    assert input_digest("m", again, Spellings()) == input_digest("m", inputs, Spellings())


SIGNED_URL = "https://a.example/a?X-Amz-Credential=a&X-Amz-Date=b&X-Amz-Expires=60&X-Amz-Signature=c"
ODD_TEXTS = st.one_of(
    st.sampled_from(
        ['a","b', '"', "\\", '\\"', ",", "", "a--b", " - a", "\0", "é", "\u2028", "x" * 200]
    ),
    st.sampled_from(["data:,a", "a\rb", SIGNED_URL, f"see {SIGNED_URL}"]),
    st.text(max_size=60),
)
COLUMNS = st.integers(1, 5).flatmap(
    lambda count: st.tuples(
        st.dictionaries(
            st.text(max_size=4),
            st.lists(ODD_TEXTS, min_size=count, max_size=count)
            | st.lists(ODD_TEXTS | st.lists(ODD_TEXTS, max_size=2), min_size=count, max_size=count)
            | st.tuples(ODD_TEXTS),
            max_size=4,
        ),
        st.just(count),
    )
)


@given(st.sampled_from(["m", "a/b", 'o"dd', "é"]), COLUMNS)
@settings(max_examples=150)
def test_digests_of_many_rows_are_those_of_each(model, found):
    columns, count = found
    rows = [
        {name: values[row if len(values) > 1 else 0] for name, values in columns.items()}
        for row in range(count)
    ]
    assert digests_of(model, columns, count) == [digest_of(model, row) for row in rows]


@given(st.lists(ODD_TEXTS, max_size=6))
@settings(max_examples=150)
def test_slugs_ids_and_spellings_of_many_texts_are_those_of_each(texts):
    assert slugs(texts) == [slug(text) for text in texts]
    inputs = [{"prompt": text} for text in texts]
    assert generated_ids(inputs, texts) == [*map(generated_id, inputs, texts)]
    for _, spelled in (Spellings({"prompt": True})["prompt"], Spellings()["other"]):
        assert [*spelled_each(texts, spelled)] == [*map(spelled, texts)]

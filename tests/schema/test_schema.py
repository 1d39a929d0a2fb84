"""The vendor's schemas translated, text typed by them, inputs checked against them, and their prices."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.errors import BatcherError
from batcher.jobs.job import LocalMedia
from batcher.manifest.fit import give_types
from batcher.schema.dialect import SchemaError, json_value, media_kind
from batcher.schema.spec import BUILT_IN, KLING, ModelSpec

GOOD = {"prompt": "a cat", "image_url": "https://example.com/cat.png"}
PHOTO = LocalMedia("/a.png", "a.png", "0" * 64, 5, "image/png")


def entry(properties, **more):
    schema = {"type": "object", "properties": properties, **more.pop("schema", {})}
    return {"model_id": "a/b", "input_schema": schema, **more}


def spec(properties, **more):
    return ModelSpec.from_catalogue(entry(properties, **more))


def what(properties, inputs, **more):
    return [f"{field}: {problem}" for field, problem in spec(properties, **more).problems(inputs)]


# The built-in spec


def test_the_built_in_model_has_the_six_documented_fields_and_no_price():
    assert set(KLING.fields) == {
        "prompt", "image_url", "duration", "aspect_ratio", "negative_prompt", "cfg_scale"
    }  # fmt: skip
    assert BUILT_IN == {"kling/kling-2-1/master/image-to-video": KLING}
    assert KLING.origin == "built-in"
    assert KLING.price_usd({**GOOD, "duration": 5}) is None
    assert KLING.quote(GOOD) is None


def test_the_documented_inputs_are_accepted():
    full = {"duration": 10, "aspect_ratio": "9:16", "negative_prompt": "", "cfg_scale": 0.5}
    assert KLING.problems({**GOOD, **full}) == []
    assert KLING.problems({**GOOD, "cfg_scale": 1}) == []


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({"duration": 7}, ("duration", "7 is not one of 5, 10")),
        ({"aspect_ratio": "4:3"}, ("aspect_ratio", "'4:3' is not one of 16:9, 1:1, 9:16")),
        ({"cfg_scale": 1.5}, ("cfg_scale", "1.5 is more than the maximum 1")),
        ({"cfg_scale": -1}, ("cfg_scale", "-1 is less than the minimum 0")),
        ({"cfg_scale": "high"}, ("cfg_scale", "'high' is not a number")),
        ({"duration": "five"}, ("duration", "'five' is not an integer")),
        ({"prompt": 5}, ("prompt", "5 is not text; put it in quotes")),
        ({"prompt": True}, ("prompt", "true is not text; put it in quotes")),
        ({"promt": "x"}, ("promt", "unknown field, did you mean prompt?")),
        ({"Prompt_": "x"}, ("Prompt_", "unknown field, did you mean prompt?")),
        ({"seed": 1}, ("seed", "unknown field")),
    ],
)
def test_a_problem_names_its_field_and_what_would_be_right(inputs, problem):
    assert KLING.problems({**GOOD, **inputs}) == [problem]


def test_each_field_has_one_problem_and_all_fields_are_reported():
    problems = KLING.problems({"promt": "x", "duration": "x"})
    assert len(problems) == 4
    assert dict(problems) == {
        "prompt": "required, but missing",
        "image_url": "required, but missing",
        "duration": "'x' is not an integer",
        "promt": "unknown field, did you mean prompt?",
    }


def test_local_media_count_as_text():
    assert KLING.problems({**GOOD, "image_url": PHOTO}) == []
    assert KLING.problems({"image_url": PHOTO}) == [("prompt", "required, but missing")]
    assert what({"images": {"type": "array", "items": {"type": "string"}}}, {"images": [PHOTO]}) == []
    (problem,) = what({"n": {"type": "integer"}}, {"n": PHOTO})
    assert problem.endswith("is not an integer")


def test_a_problem_shows_no_signature_of_a_url():
    assert "secret" not in str(KLING.problems({**GOOD, "duration": "https://x.org/a?token=secret"}))


def test_the_compiler_of_schemas_is_imported_only_when_something_is_checked():
    code = "import sys, batcher.schema; sys.exit('jsonschema_rs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Every kind of problem


@pytest.mark.parametrize(
    ("schema", "value", "problem"),
    [
        ({"const": "a"}, "b", "f: 'b' is not 'a'"),
        ({"type": "number", "exclusiveMinimum": 0}, 0, "f: 0 is not more than 0"),
        ({"type": "number", "exclusiveMaximum": 1}, 1, "f: 1 is not less than 1"),
        ({"type": "integer", "multipleOf": 8}, 12, "f: 12 is not a multiple of 8"),
        ({"type": "string", "minLength": 2}, "a", "f: has 1 characters, at least 2"),
        ({"type": "string", "maxLength": 2}, "abc", "f: has 3 characters, at most 2"),
        ({"type": "array", "minItems": 2}, [1], "f: has 1 items, at least 2"),
        ({"type": "array", "maxItems": 2}, [1, 2, 3], "f: has 3 items, at most 2"),
        ({"type": "array", "uniqueItems": True}, [1, 1], "f: has an item twice"),
        ({"type": "string", "pattern": "^#"}, "red", "f: 'red' does not match ^#"),
        ({"type": ["integer", "boolean"]}, "x", "f: 'x' is not true or false or an integer"),
        ({"type": "array"}, "x", "f: 'x' is not a list"),
        ({"type": "object"}, [1], "f: [1] is not a mapping"),
        ({"type": "boolean"}, None, "f: null is not true or false"),
        (
            {"type": "array", "items": {"type": "string"}},
            ["a", 1],
            "f[1]: 1 is not text; put it in quotes",
        ),
        (
            {
                "type": "object",
                "properties": {"zoom": {"type": "number"}},
                "additionalProperties": False,
            },
            {"zom": 1},
            "f.zom: unknown field",
        ),
        ({"type": "object", "properties": {}, "required": ["x"]}, {}, "f.x: required, but missing"),
        (
            {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            1.5,
            "f: 1.5 fits none of the forms that the model takes",
        ),
        (
            {"oneOf": [{"type": "string"}, {"type": "integer"}]},
            1.5,
            "f: 1.5 fits none of the forms that the model takes",
        ),
        (False, 1, "f: is not allowed (False schema does not allow 1)"),
    ],
)
def test_every_limit_has_words(schema, value, problem):
    assert what({"f": schema}, {"f": value}) == [problem]


def test_long_values_are_cut_and_so_are_long_lists_of_choices():
    (problem,) = what({"f": {"type": "integer"}}, {"f": "x" * 1000})
    assert len(problem) < 120
    (problem,) = what({"f": {"enum": [f"choice {n}" for n in range(1000)]}}, {"f": "x"})
    assert len(problem) < 400


# The vendor's habits


@pytest.mark.parametrize(
    ("vendor", "value"),
    [
        ({"type": "float"}, 0.5),
        ({"type": "int"}, 5),
        ({"type": "bool"}, True),
        ({"type": "str"}, "x"),
        ({"type": ["float", "null"]}, 0.5),
        ({"type": "list", "items": {"type": "float"}}, [0.5]),
        ({"type": "dict", "properties": {"a": {"type": "float"}}}, {"a": 0.5}),
        ({"type": "string", "enum": None, "minLength": None}, "x"),
        ({"type": "string", "enum": []}, "x"),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, 0.1),
        ({"type": "number", "maximum": 1, "exclusiveMaximum": False}, 1),
        ({"anyOf": [{"type": "int"}, {"type": "null"}], "default": 3}, 5),
        ({"type": "string", "id": "x", "$id": "y", "nullable": True}, "x"),
        (
            {
                "type": "string",
                "validations": [{"validation_rule": "no_such_rule", "validation_value": 1}],
            },
            "x",
        ),
        (
            {
                "type": "string",
                "validations": [5, {"validation_rule": "max_length", "validation_value": "?"}],
            },
            "x",
        ),
        (
            {"type": "string", "validations": [{"validation_rule": "regex", "validation_value": "("}]},
            "x",
        ),
        ({"type": "string", "validations": "soon"}, "x"),
        ({}, ["anything"]),
        (True, ["anything"]),
    ],
)
def test_what_the_vendor_writes_is_understood(vendor, value):
    assert what({"f": vendor}, {"f": value}) == []


@pytest.mark.parametrize(
    ("vendor", "value"),
    [
        ({"type": "float"}, "x"),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, 0),
        ({"type": "number", "maximum": 1, "exclusiveMaximum": False}, 2),
        ({"anyOf": [{"type": "int"}, {"type": "null"}]}, "x"),
        (
            {
                "type": "string",
                "validations": [{"validation_rule": "max_length", "validation_value": 2}],
            },
            "abc",
        ),
        ({"type": "float", "validations": [{"validation_rule": "min", "validation_value": 1}]}, 0),
        (
            {"type": "array", "validations": [{"validation_rule": "maxItems", "validation_value": 1}]},
            [1, 2],
        ),
        (
            {"type": "string", "validations": [{"validation_rule": "regex", "validation_value": "^a"}]},
            "b",
        ),
    ],
)
def test_what_the_vendor_forbids_is_a_problem(vendor, value):
    assert len(what({"f": vendor}, {"f": value})) == 1


def test_a_property_may_say_itself_that_it_is_required():
    assert what({"f": {"type": "string", "required": True}, "g": {"required": False}}, {}) == [
        "f: required, but missing"
    ]
    both = {"f": {"required": True}, "g": {}}
    assert len(what(both, {}, schema={"required": ["g"]})) == 2


def test_unknown_fields_are_allowed_only_where_the_schema_says_so():
    assert what({"f": {}}, {"g": 1}) == ["g: unknown field"]
    assert what({"f": {}}, {"g": 1}, schema={"additionalProperties": True}) == []


def test_references_inside_the_schema_are_followed():
    choices = {"$defs": {"Length": {"type": "integer", "enum": [5, 10]}}}
    for form in ({"$ref": "#/$defs/Length"}, {"allOf": [{"$ref": "#/$defs/Length"}], "default": 5}):
        length = spec({"duration": form}, schema=choices)
        assert length.type_text("duration", "10") == 10
        assert length.problems({"duration": 7}) == [("duration", "7 is not one of 5, 10")]


@pytest.mark.parametrize(
    "odd", [{"a": 2}, {"b": 3}, {"a": 3, "b": "x"}, {"a": 3, "c": 1}, {"a": float("nan")}, {"a": PHOTO}]
)
def test_many_inputs_are_valid_if_each_is_also_by_references(odd):
    length = {"type": "integer", "minimum": 3}
    fields = {"a": {"$ref": "#/$defs/Length"}, "b": {"allOf": [{"$ref": "#/properties/a"}]}}
    model = spec(fields, schema={"required": ["a"], "$defs": {"Length": length}})
    good = [{"a": 3}, {"a": 5, "b": 4}]
    assert model.are_valid(good)
    assert not model.are_valid([*good, odd])
    assert all(not model.problems(one) for one in good)


# A hostile catalogue


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "x",
        {},
        {"model_id": ""},
        {"model_id": 5, "input_schema": {"properties": {}}},
        {"model_id": "a/b"},
        {"model_id": "a/b", "input_schema": None},
        {"model_id": "a/b", "input_schema": {"properties": []}},
        entry({"f": 5}),
        entry({"f": {"type": "banana"}}),
        entry({"f": {"type": 5}}),
        entry({"f": {"type": ["string", {}]}}),
        entry({"f": {"pattern": "("}}),
        entry({"f": {"minimum": "low"}}),
        entry({"f": {"required": ["a", 5]}}),
        entry({"f": {"$ref": "#/nowhere"}}),
        entry({"f": {"$ref": "file:///etc/hostname"}}),
        entry({"f": {"$ref": "https://example.com/schema.json"}}),
        entry({"f": {"type": "string"}}, schema={"required": "f"}),
    ],
)
def test_a_broken_answer_is_one_clear_error(answer):
    with pytest.raises(SchemaError) as caught:
        ModelSpec.from_catalogue(answer)
    assert isinstance(caught.value, BatcherError)
    assert "\n" not in str(caught.value)


def test_a_schema_nested_without_end_is_refused():
    deep = {}
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(SchemaError, match="nested deeper"):
        ModelSpec.from_catalogue(entry({"f": deep}))


def test_a_reference_is_never_fetched():
    with pytest.raises(SchemaError, match="is not followed"):
        spec({"f": {"$ref": "file:///etc/hostname"}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "enum", "properties", "items", "anyOf", "required", "default", "format", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=150)
def test_no_answer_of_the_catalogue_gives_a_traceback(value):
    for answer in (value, {"model_id": "a", "input_schema": value}, entry({"f": value})):
        try:
            made = ModelSpec.from_catalogue(answer)
        except SchemaError:
            continue
        made.problems({"f": made.type_text("f", "5")})
        made.price_usd({"f": 1})


# Text


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "integer"}, "5", 5),
        ({"type": "integer"}, " 5 ", 5),
        ({"type": "integer"}, "-5", -5),
        ({"type": "integer"}, "5.0", 5),
        ({"type": "integer"}, "1e3", 1000),
        ({"type": "integer"}, "5.5", "5.5"),
        ({"type": "integer"}, "five", "five"),
        ({"type": "integer"}, "9" * 30, "9" * 30),
        ({"type": "integer"}, "9" * 20, "9" * 20),
        ({"type": "integer"}, "1e300", "1e300"),
        ({"type": "number"}, "0.5", 0.5),
        ({"type": "float"}, ".5", 0.5),
        ({"type": "number"}, "5", 5),
        ({"type": "number"}, "1e999", "1e999"),
        ({"type": "number"}, "nan", "nan"),
        ({"type": "number"}, "0,5", 0.5),
        ({"type": "number"}, "1,500", "1,500"),
        ({"type": "boolean"}, "true", True),
        ({"type": "boolean"}, "TRUE", True),
        ({"type": "boolean"}, "yes", True),
        ({"type": "boolean"}, "1", True),
        ({"type": "boolean"}, "No", False),
        ({"type": "boolean"}, "0", False),
        ({"type": "boolean"}, "maybe", "maybe"),
        ({"type": "array"}, '["a", 1]', ["a", 1]),
        ({"type": "array", "items": {"type": "integer"}}, "5", [5]),
        ({"type": ["array", "null"]}, "a.png", ["a.png"]),
        ({"type": "array"}, "[broken", "[broken"),
        ({"type": "array"}, f"[{'9' * 30}]", f"[{'9' * 30}]"),
        ({"type": "array"}, "[" * 5000, "[" * 5000),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        ({"type": "object"}, "a", "a"),
        ({"type": "string"}, "5", "5"),
        ({"type": "string"}, "[1]", "[1]"),
        ({"type": ["integer", "null"]}, "5", 5),
        ({"type": ["integer", "string"]}, "5", "5"),
        ({"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, "yes", True),
        ({"anyOf": [{"type": "string"}, {"type": "object"}]}, '{"width": 5}', {"width": 5}),
        ({"enum": [5, 10]}, "5", 5),
        ({"enum": ["5", "10"]}, "5", "5"),
        ({}, "5", "5"),
        (True, "5", "5"),
    ],
)
def test_text_gets_the_type_of_its_field_or_stays_text(schema, text, value):
    typed = spec({"f": schema}).type_text("f", text)
    assert typed == value
    assert type(typed) is type(value)


def test_text_of_an_unknown_field_stays_text():
    assert KLING.type_text("nowhere", "5") == "5"


@given(st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=60)
def test_every_number_survives_as_text(integer, number):
    made = spec({"i": {"type": "integer"}, "n": {"type": "number"}})
    assert made.type_text("i", str(integer)) == integer
    assert made.type_text("n", repr(number)) == number


# Media


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("image", "image"),
        ("images", "image"),
        ("image_url", "image"),
        ("image_urls", "image"),
        ("imageUrl", "image"),
        ("image_uri", "image"),
        ("end_image_url", "image"),
        ("reference_images", "image"),
        ("image_2", "image"),
        ("video", "video"),
        ("video_url", "video"),
        ("audio_url", "audio"),
        ("num_images", None),
        ("max_images", None),
        ("generate_audio", None),
        ("enable_audio", None),
        ("image_size", None),
        ("prompt", None),
        ("imagery", None),
        ("webhook_url", None),
    ],
)
def test_a_name_tells_what_media_a_field_takes(name, kind):
    assert media_kind(name) == kind


def test_a_format_tells_it_better_and_a_type_may_contradict_the_name():
    made = spec(
        {
            "face": {"type": "string", "format": "image_uri"},
            "clips": {"type": "array", "format": "video_uris"},
            "voices": {"type": "array", "items": {"type": "string", "format": "audio_uri"}},
            "image": {"type": "boolean"},
            "video": {"type": "string", "enum": ["on", "off"]},
            "image_url": {},
            "audio": False,
        }
    )
    assert made.media == {
        "face": "image",
        "clips": "video",
        "voices": "audio",
        "image_url": "image",
        "audio": "audio",
    }


# Prices


@pytest.mark.parametrize(
    ("unit", "properties", "inputs", "price"),
    [
        ("second", {"duration": {"default": 5}}, {}, 1.4),
        ("second", {"duration": {"default": 5}}, {"duration": 10}, 2.8),
        ("per Second", {"duration": {}}, {"duration": "10"}, 2.8),
        ("seconds", {"seconds": {}}, {"seconds": 2.5}, 0.7),
        ("second", {"duration": {}}, {}, None),
        ("second", {"duration": {}}, {"duration": "long"}, None),
        ("second", {"duration": {}}, {"duration": True}, None),
        ("second", {"duration": {}}, {"duration": -5}, None),
        ("second", {}, {"duration": 5}, None),
        ("output", {}, {}, 0.28),
        ("video", {}, {}, 0.28),
        ("request", {}, {}, 0.28),
        ("generation", {}, {}, 0.28),
        ("image", {"num_images": {"default": 2}}, {}, 0.56),
        ("images", {"num_images": {}}, {}, 0.28),
        ("image", {"num_images": {}}, {"num_images": 4}, 1.12),
        ("image", {"num_outputs": {}}, {"num_outputs": "many"}, None),
        ("second", {"duration": {"default": 5}, "num_videos": {}}, {"num_videos": 2}, 2.8),
        ("megapixel", {}, {}, None),
        ("", {}, {}, None),
        (None, {}, {}, None),
        (5, {}, {}, None),
    ],
)
def test_a_price_is_computed_or_not_known(unit, properties, inputs, price):
    assert spec(properties, base_price_usd=0.28, price_unit=unit).price_usd(inputs) == price


@pytest.mark.parametrize("price", [None, "0.28", True, -1, float("nan"), float("inf"), [1]])
def test_an_odd_price_is_no_price(price):
    made = spec({}, base_price_usd=price, price_unit="output")
    assert made.base_price_usd is None
    assert made.price_usd({}) is None


def test_a_price_of_zero_is_no_price():
    assert spec({}, base_price_usd=0, price_unit="output").price_usd({}) is None


def test_the_rest_of_an_answer_is_taken_along_or_left_out():
    made = spec(
        {},
        display_name="A to B",
        categories=["image-to-video", 5],
        pricing_note="cheap",
        price_unit="output",
    )
    assert (made.display_name, made.categories, made.pricing_note) == (
        "A to B",
        ("image-to-video",),
        "cheap",
    )
    assert (made.origin, made.price_unit) == ("catalogue", "output")
    bare = spec({}, display_name=5, categories="x", pricing_note=[])
    assert (bare.display_name, bare.categories, bare.pricing_note) == ("a/b", (), None)


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        (" 16:9 ", "16:9"),
        ("16:9\n", "16:9"),
        ("16:9", "16:9"),
        (" a ", " a "),
        ("16 : 9", "16 : 9"),
        (" 1:1", " 1:1"),
    ],
)
def test_spaces_around_a_choice_are_no_part_of_it(text, sent):
    """Unless they are part of a choice."""
    ratio = {"type": "string", "enum": ["16:9", "a", " a ", "9:16"]}
    made = spec({"ratio": ratio, "ratios": {"type": "array", "items": ratio}})
    assert made.type_text("ratio", text) == sent
    assert made.type_text("ratios", text) == [sent]


def test_a_number_does_not_become_a_choice_by_its_spelling():
    inputs = {"size": 2.0}
    made = spec({"size": {"type": "string", "enum": ["2", "2.0"]}})
    give_types(inputs, made)
    assert inputs == {"size": 2.0}
    assert made.problems(inputs)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("5s", "'5s' is not an integer; write 5"),
        (" 10 sec. ", "' 10 sec. ' is not an integer; write 10"),
        ("N/A", "'N/A' is not an integer; leave it empty if there is none"),
        ("-", "'-' is not an integer; leave it empty if there is none"),
        ("five", "'five' is not an integer"),
        ("5s 6s", "'5s 6s' is not an integer"),
    ],
)
def test_what_is_no_number_is_told_with_what_may_be_meant(value, told):
    made = spec({"n": {"type": "integer"}})
    assert made.problems({"n": made.type_text("n", value)}) == [("n", told)]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("50%", "'50%' is not a number; write 0.5, or 50 if the model counts in percent"),
        ("7.5 %", "'7.5 %' is not a number; write 0.075, or 7.5 if the model counts in percent"),
        ("0.5x", "'0.5x' is not a number; write 0.5"),
    ],
)
def test_of_a_percentage_both_readings_are_told(value, told):
    made = spec({"n": {"type": "number"}})
    assert made.problems({"n": made.type_text("n", value)}) == [("n", told)]


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_only_python_writes_into_json_is_told_by_its_name(name):
    with pytest.raises(ValueError, match=f"^{name.removeprefix('-')} is not a JSON value; write null$"):
        json_value(f'{{"é": {name}}}')
    with pytest.raises(ValueError, match="invalid character"):
        json_value('{"NaN": none}')


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("16x9", "; did you mean 16:9?"),
        ("16:09", "; did you mean 16:9?"),
        ("none", "; leave it empty if there is none"),
        ("wide", ""),
    ],
)
def test_what_is_no_choice_is_told_with_what_may_be_meant(value, hint):
    made = spec({"ratio": {"type": "string", "enum": ["16:9", "1:1"]}})
    assert made.problems({"ratio": value}) == [("ratio", f"{value!r} is not one of 16:9, 1:1{hint}")]


def test_a_choice_that_may_be_meant_is_told_however_many_there_are():
    made = spec({"name": {"type": "string", "enum": [f"checkpoint-{n}" for n in range(200)]}})
    [(_, told)] = made.problems({"name": "checkpoint-199x"})
    assert told.endswith("...; did you mean checkpoint-199?")
    assert len(told) <= 300

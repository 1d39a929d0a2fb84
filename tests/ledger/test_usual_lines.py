"""The lines that are decoded as types of their own tell the same as any other line would."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batcher.disk import LocalDisk
from batcher.errors import LedgerError
from batcher.jobs.lifecycle import Event, EventName
from batcher.layout import LEDGER_NAME
from batcher.ledger import replay
from batcher.ledger.ledger import read_ledger, read_snapshot
from batcher.ledger.lines import UNREADABLE, LineReader, encode_line, is_text, read_line
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.usual_lines import UsualLine, decode_usual, usual_lines
from tests.support.histories import HISTORIES, USUAL_HISTORIES, Folded, facts

ANY_FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
LIFE = (
    (
        b'{"event":"submitting","at":"2026-01-01T00:00:00.000Z","job":"j","attempt":1,"model":"m",'
        b'"input":{"prompt":"a","duration":5,"x":{"y":[1,"z",null,true]}},"meta":{"k":"v","n":{"o":"p"}},'
        b'"vars":{"a":1.5e3},"source":"s:1","digest":"0123456789abcdef","price_usd":1.5,"priced_as":"x",'
        b'"retry":1,"group":0}'
    ),
    (
        b'{"event":"submitted","at":"2026-01-01T00:00:01.000Z","job":"j","attempt":1,"request_id":"r",'
        b'"urls":{"status":"u"},"group":0}'
    ),
    (
        b'{"event":"completed","at":"2026-01-01T00:00:02.000Z","job":"j","attempt":1,"cost_usd":1.5,'
        b'"output":{"a":["b",{"c":"d"}]},"unfinished_s":1,"group":0}'
    ),
    (
        b'{"event":"done","at":"2026-01-01T00:00:03.000Z","job":"j","attempt":1,"files":[{"path":"p",'
        b'"bytes":1,"sha256":"q","media_type":"x","unjudged":true}],"quality":"poor","group":0}'
    ),
)
OTHERS = (
    (
        b'{"event":"failed","at":"","job":"k","attempt":1,"cost_usd":1,"stage":"submit","code":"x",'
        b'"message":"no","files":[],"retry_due":true,"group":0}'
    ),
    b'{"event":"submitting","at":"","job":"k","attempt":2,"group":0}',
    b'{"event":"unanswered","at":"","job":"k","attempt":2,"code":7,"message":"no","group":0}',
    b'{"event":"deferred","at":"","job":"k","attempt":2,"reason":"no","may_cost":true,"group":0}',
    b'{"event":"submitting","at":"","job":"k","attempt":2,"group":0}',
    b'{"event":"submitted","at":"","job":"k","attempt":2,"request_id":"r2","group":0}',
    b'{"event":"cancelled","at":"","job":"k","attempt":2,"may_cost":true,"group":0}',
    b'{"event":"cost","at":"","job":"j","attempt":1,"cost_usd":1.5,"group":0}',
)


def reads(read, raw):
    try:
        return read(raw)
    except UNREADABLE:
        return None


def shared(line):
    """Everything that a usual line says."""
    values = {name: getattr(line, name) for name in line.__struct_fields__}
    return repr(values), line.event


def same(usual, any_line):
    values = {name: getattr(any_line, name) for name in usual.__struct_fields__}
    return shared(usual) == (repr(values), any_line.event)


@pytest.mark.parametrize("raw", [*LIFE, *OTHERS])
def test_a_usual_line_is_accepted_with_all_its_fields(raw):
    assert isinstance(decode_usual(raw), UsualLine)
    assert same(decode_usual(raw), read_line(raw))


@pytest.mark.parametrize("raw", [*LIFE, *OTHERS])
def test_no_byte_anywhere_is_accepted_that_would_be_refused_otherwise(raw):
    """Control characters above all: they are not searched for in blocks of usual lines."""
    for at in range(len(raw)):
        for code in (*range(0x20), 0x22, 0x5C, 0x7F, 0xC3):
            byte = bytes([code])
            for odd in (raw[:at] + byte + raw[at:], raw[:at] + byte + raw[at + 1 :]):
                if is_text(odd) and (usual := reads(decode_usual, odd)) is not None:
                    assert same(usual, read_line(odd)), odd


VALUES = st.sampled_from(
    [
        "1",
        "-1",
        "1.5",
        "1e400",
        "null",
        "true",
        '"a"',
        '"\\u0001"',
        '"\\ud800"',
        "[]",
        '{"duration":"5"}',
        '[{"path":"a","bytes":1,"sha256":"b"}]',
        '[{"path":1}]',
        '{"a":{}}',
        "9" * 30,
        "{",
        '"',
    ]
)
NAMES = st.sampled_from(
    [*Event.__struct_fields__, "group", "run", "unknown", "atttempt", "ev\\u0065nt", "job\\u0000"]
)
EVENTS = st.sampled_from([*EventName, "new"])
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=6)


@given(EVENTS, FIELDS, st.booleans())
@example("done", [("event", '"submitted"')], False)
@example("done", [("job", '"other"'), ("job", '"again"')], True)
def test_any_line_that_is_accepted_tells_the_same_otherwise(event, fields, is_first):
    pairs = [("at", '"2026-01-01T00:00:00.000Z"'), ("job", '"j"'), *fields]
    pairs.insert(0 if is_first else len(pairs), ("event", json.dumps(event)))
    raw = ("{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}").encode()
    if (usual := reads(decode_usual, raw)) is not None:
        assert same(usual, read_line(raw))


def as_lines(events):
    """The bytes of a ledger, in groups of three lines."""
    lines, group, end = [], 0, 0
    for number, event in enumerate(events):
        group = end if number % 3 == 0 else group
        lines.append(encode_line(event, group))
        end += len(lines[-1])
    return lines


def _flipped(whole, at, byte):
    return whole[:at] + bytes([byte]) + whole[at + 1 :]


def damaged(data, lines):
    """A ledger as something else left it."""
    whole = b"".join(lines)
    at = data.draw(st.integers(0, max(len(whole) - 1, 0)))
    number = data.draw(st.integers(0, max(len(lines) - 1, 0)))
    odd = data.draw(st.sampled_from([b"\n", b" \n", b'{"event":"new","at":""}\n', b"{}\n", b"junk\n"]))
    ways = {
        "whole": whole,
        "cut": whole[:at],
        "flipped": _flipped(whole, at, data.draw(st.integers(0, 255))),
        "zeroed": whole[:at] + bytes(len(whole) - at),
        "control": whole[:at] + bytes([data.draw(st.integers(0, 31))]) + whole[at:],
        "deleted": b"".join(lines[:number] + lines[number + 1 :]),
        "twice": b"".join(lines[: number + 1] + lines[number:]),
        "added": b"".join([*lines[:number], odd, *lines[number:]]),
        "blanked": b"".join(
            [
                *lines[:number],
                *(b" " * (len(one) - 1) + b"\n" for one in lines[number:][:1]),
                *lines[number + 1 :],
            ]
        ),
        "no group": whole.replace(b',"group":', b',"grpup":'),
        "CRLF": whole.replace(b"\n", b"\r\n"),
    }
    return ways[data.draw(st.sampled_from(sorted(ways)))]


def outcome(cls, path):
    lines = LineReader(path, LocalDisk())
    try:
        return facts(read_ledger(cls(lines.at), path, lines, LocalDisk()))
    except LedgerError as error:
        return str(error)


@ANY_FIXTURE
@given(
    events=HISTORIES | USUAL_HISTORIES, data=st.data(), block_bytes=st.sampled_from([64, 1000, 1 << 20])
)
def test_a_ledger_amounts_to_the_same_or_is_refused_with_the_same_words(
    tmp_path, events, data, block_bytes
):
    (tmp_path / LEDGER_NAME).write_bytes(damaged(data, as_lines(events)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batcher.ledger.lines.BLOCK_BYTES", block_bytes)
        patch.setattr("batcher.ledger.lines.PIECE_BYTES", data.draw(st.sampled_from([1, 500, 1 << 14])))
        patch.setattr("batcher.ledger.snapshot.KEPT_OPEN", 2)
        assert outcome(Snapshot, tmp_path) == outcome(Folded, tmp_path)


@pytest.mark.parametrize("raw", LIFE)
def test_a_line_of_no_job_is_refused(tmp_path, raw):
    (tmp_path / LEDGER_NAME).write_bytes(raw.replace(b'"j"', b'""') + b"\n")
    assert "ledger.jsonl:1: " in outcome(Snapshot, tmp_path)
    assert " of no job" in outcome(Snapshot, tmp_path)


@pytest.mark.parametrize("old", [b'"prompt"', b'"a"', b'"k"', b'"p"'])
def test_bytes_that_are_not_text_are_damage_also_in_what_is_skipped(tmp_path, old):
    whole = b"\n".join([*LIFE, b""]).replace(old, old.replace(b'"', b'"\xff', 1), 1)
    (tmp_path / LEDGER_NAME).write_bytes(whole)
    assert "ledger.jsonl:1: unreadable" in outcome(Snapshot, tmp_path)
    assert outcome(Snapshot, tmp_path) == outcome(Folded, tmp_path)


def test_usual_lines_are_decoded_only_once(tmp_path, monkeypatch):
    others = []
    monkeypatch.setattr(replay, "read_line", lambda raw: others.append(raw) or read_line(raw))
    monkeypatch.setattr("batcher.ledger.lines.PIECE_BYTES", 1)
    odd = b'{"event":"failed","at":"","job":"k","stage":"submit","group":0,"odd":1}'
    begun = LIFE[0].replace(b'"j"', b'"k"')
    (tmp_path / LEDGER_NAME).write_bytes(b"\n".join([*LIFE, begun, odd, *OTHERS, b""]))
    assert read_snapshot(tmp_path, LocalDisk()).counts["done"] == 1
    assert others == [odd]


NESTED = b'{"event":"completed","at":"","job":"j","output":{"a":[{},{"b":1}]},"group":0}'


def test_two_objects_in_one_line_are_not_usual():
    assert usual_lines(LIFE[0] + LIFE[1] + b"\n" + LIFE[2] + b"\n", 0) is None


def test_usual_lines_have_their_places():
    data = b"".join(line + b"\n" for line in LIFE)
    told = usual_lines(data, 100)
    assert told is not None
    for (line, place), raw in zip(told, LIFE, strict=True):
        assert same(line, read_line(raw))
        assert data[place - 100 :].startswith(raw)


@pytest.mark.parametrize("gap", [b"", b" ", b"\r", b"\t", b"\r\n", b"\n ", b" \n", b"\n\n"])
def test_what_stands_in_other_lines_than_its_own_is_not_usual(gap):
    """Two objects in one line and one in two lines are as many objects as lines."""
    for at in range(1, len(NESTED)):
        torn = NESTED[:at] + b"\n" + NESTED[at:]
        assert usual_lines(LIFE[0] + gap + torn + b"\n", 0) is None
    if gap:
        assert usual_lines(LIFE[0] + gap + NESTED + b"\n" + gap + b"\n", 0) is None

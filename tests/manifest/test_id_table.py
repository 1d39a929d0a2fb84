"""The packed table of ids does what a dict of them would do."""

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.manifest.id_table import Claim, Claims, IdTable

IDS = st.sampled_from(["a", "A", "b", "a-2", "ß", "SS", "ss", "x" * 100]) | st.text(max_size=3)


@given(st.lists(st.tuples(IDS, st.sampled_from(["own 1", "own 2", "made 1"])), max_size=60))
@settings(max_examples=150)
def test_the_table_equals_a_dict(claims):
    table, model = IdTable(), {}
    for place, (job_id, meaning) in enumerate(claims):
        claim, first, mark = table.claim(job_id, meaning, place, 7 * place)
        known_id, known_meaning, known_place = model.setdefault(
            job_id.casefold(), (job_id, meaning, place)
        )
        assert (first, mark) == (known_place, 7 * known_place)
        if known_place == place:
            assert claim is Claim.NEW
        else:
            assert claim is (
                Claim.SAME if (known_id, known_meaning) == (job_id, meaning) else Claim.TAKEN
            )
    assert len(table) == len(model)


@given(st.lists(st.dictionaries(IDS, st.integers(0, 1), max_size=6).map(dict.items), max_size=12))
@settings(max_examples=150)
def test_many_claims_at_once_are_all_made_or_none(blocks):
    table, model = IdTable(), {}
    for place, block in enumerate(blocks):
        folded = [job_id.casefold() for job_id, _ in block]
        are_new = len({*folded}) == len(folded) and model.keys().isdisjoint(folded)
        ids, meanings = [job_id for job_id, _ in block], [meaning for _, meaning in block]
        claims = Claims(ids, meanings, [place] * len(ids), [7 * place] * len(ids))
        assert table.claim_all(claims) is are_new
        if are_new:
            model.update((job_id.casefold(), (job_id, meaning, place)) for job_id, meaning in block)
        assert len(table) == len(model)
        for job_id, meaning, first in model.values():
            assert table.claim(job_id, meaning, 99) == (Claim.SAME, first, 7 * first)


def test_claims_that_are_not_made_leave_no_trace_among_many():
    table = IdTable()
    for n in range(0, 20_000, 100):
        ids = [f"job-{m}" for m in range(n, n + 100)]
        again = [*ids[:-1], f"JOB-{n // 2}"]
        numbers = range(n, n + 100)
        assert table.claim_all(Claims(again, ids, numbers, numbers)) is False
        assert table.claim_all(Claims(ids, ids, numbers, numbers)) is True
    assert len(table) == 20_000
    assert all(table.claim(f"job-{n}", f"job-{n}", 0) == (Claim.SAME, n, n) for n in range(20_000))


def test_many_ids_are_all_found_again_at_their_places():
    table = IdTable()
    for n in range(50_000):
        assert table.claim(f"job-{n}", n, n, n) == (Claim.NEW, n, n)
    assert len(table) == 50_000
    for n in range(0, 50_000, 7):
        assert table.claim(f"job-{n}", n, 2**63) == (Claim.SAME, n, n)
        assert table.claim(f"JOB-{n}", n, 2**63) == (Claim.TAKEN, n, n)


def test_place_and_mark_may_have_64_bits():
    table = IdTable()
    assert table.claim("a", "x", 2**64 - 1, 2**64 - 2) == (Claim.NEW, 2**64 - 1, 2**64 - 2)
    assert table.claim("a", "x", 0) == (Claim.SAME, 2**64 - 1, 2**64 - 2)


def test_an_id_takes_a_few_dozen_bytes():
    count = 50_000
    tracemalloc.start()
    table = IdTable()
    empty_bytes, _ = tracemalloc.get_traced_memory()
    for n in range(count):
        table.claim(f"job-{n}", n, n)
    full_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (full_bytes - empty_bytes) / count < 64

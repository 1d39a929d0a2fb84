"""The packed table of ids does what a dict of them would do."""

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.manifest.id_table import Claim, IdTable

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

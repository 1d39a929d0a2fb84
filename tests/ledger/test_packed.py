"""The packed map: a dict of texts to numbers, in a tenth of the room."""

from hypothesis import given
from hypothesis import strategies as st

from batcher.ledger import packed
from batcher.ledger.packed import Bulk, PackedMap, PackedPairs, PackedSet, SavedWords

NUMBERS = st.integers(0, 2**64 - 1)
TEXTS = st.text(max_size=3) | st.sampled_from([f"job-{number}" for number in range(8)])
DEEDS = st.lists(st.tuples(st.sampled_from(["set", "drop", "get"]), TEXTS, NUMBERS), max_size=80)


def did(deeds):
    """A map and a dict that saw the same, having agreed all the way."""
    ours, theirs = PackedMap(), {}
    for deed, text, number in deeds:
        if deed == "set":
            assert ours.setdefault(text, number) == theirs.setdefault(text, number)
        elif deed == "drop":
            ours.drop(text)
            theirs.pop(text, None)
        assert ours.get(text) == theirs.get(text)
        assert len(ours) == len(theirs)
    return ours, theirs


@given(DEEDS)
def test_it_does_what_a_dict_does(deeds):
    ours, theirs = did(deeds)
    assert {text: ours.get(text) for text in theirs} == theirs


@given(DEEDS, DEEDS)
def test_what_was_saved_comes_back_and_goes_on(deeds, more):
    saved, theirs = did(deeds)
    ours = PackedMap()
    ours.restore(saved.saved())
    assert (len(ours), {text: ours.get(text) for text in theirs}) == (len(theirs), theirs)
    for _, text, number in more:
        assert ours.setdefault(text, number) == theirs.setdefault(text, number)


@given(st.lists(TEXTS), st.lists(TEXTS))
def test_a_set_holds_what_was_added_also_after_it_was_saved(texts, more):
    saved, ours = PackedSet(), PackedSet()
    for text in texts:
        saved.add(text)
    ours.restore(saved.saved())
    for text in more:
        assert (text in ours) is (text in texts)
    for text in more:
        ours.add(text)
    assert len(ours) == len({*texts, *more})
    assert all(text in ours for text in (*texts, *more))


def play(ours, deeds):
    for deed, text, number in deeds:
        if deed == "set":
            ours.setdefault(text, number)
        elif deed == "drop":
            ours.drop(text)


@given(DEEDS, DEEDS)
def test_what_is_saved_stays_as_it_was_while_the_map_changes(deeds, more):
    ours, theirs = did(deeds)
    saved, pieces = ours.saved(), []
    for piece in saved.words.pieces():
        pieces.append(piece)
        play(ours, more[:8])
        del more[:8]
    again = PackedMap()
    again.restore(SavedWords(saved.sizes, Bulk.of(bytearray().join(pieces))))
    assert (len(again), {text: again.get(text) for text in theirs}) == (len(theirs), theirs)
    ours.release()


@given(DEEDS)
def test_one_that_keeps_hashes_of_recent_texts_does_the_same(deeds):
    ours, theirs = PackedMap(recent=2), PackedMap()
    for _, text, number in deeds:
        assert ours.setdefault(text, number) == theirs.setdefault(text, number)
        assert ours.get(text) == theirs.get(text)


@given(DEEDS)
def test_few_shards_hold_as_many(deeds):
    """All in one, so that keys are inserted before, between and behind others."""
    before = packed.SHARDS
    packed.SHARDS = 1
    try:
        did(deeds)
    finally:
        packed.SHARDS = before


def test_ten_thousand_are_told_apart():
    ours = PackedMap()
    for number in range(10_000):
        ours.setdefault(f"job-{number}", number)
    assert all(ours.get(f"job-{number}") == number for number in range(10_000))
    assert ours.get("job-10000") is None


@given(DEEDS)
def test_pairs_do_what_a_dict_does(deeds):
    """In two shards, so that keys are inserted before, between and behind others."""
    before, packed.SHARDS = packed.SHARDS, 2
    try:
        ours, theirs = PackedPairs(), {}
        for deed, text, number in deeds:
            if deed == "set":
                ours.put(text, number, 2**64 - 1 - number)
                theirs[text] = (number, 2**64 - 1 - number)
            elif deed == "drop":
                ours.drop(text)
                theirs.pop(text, None)
            assert {one: ours.get(one) for one in theirs} == theirs
            assert ours.get(text) == theirs.get(text)
            assert len(ours) == len(theirs)
    finally:
        packed.SHARDS = before

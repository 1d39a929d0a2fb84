"""Text for people: counts in words."""

import pytest

from batcher.terminal import counted, money


@pytest.mark.parametrize(("count", "told"), [(0, "0 jobs are"), (1, "1 job is"), (2, "2 jobs are")])
def test_one_is_told_from_many(count, told):
    assert counted(count, "job is", "jobs are") == told


@pytest.mark.parametrize(
    ("usd", "told"),
    [(3.0, "$3.00"), (0.025, "$0.025"), (0.0035, "$0.0035"), (1234.5, "$1,234.50"), (None, "unknown")],
)
def test_an_amount_has_cents_and_their_fractions_if_there_are_any(usd, told):
    assert money(usd) == told

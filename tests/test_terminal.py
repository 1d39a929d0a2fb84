"""Text for people: counts in words."""

import pytest

from batcher.terminal import counted


@pytest.mark.parametrize(("count", "told"), [(0, "0 jobs are"), (1, "1 job is"), (2, "2 jobs are")])
def test_one_is_told_from_many(count, told):
    assert counted(count, "job is", "jobs are") == told

"""Many small worlds in which the engine must keep its word; see ``simulation``."""

import pytest

from tests.simulation.__main__ import cover
from tests.simulation.mutations import MUTATIONS, PROJECT, hunt
from tests.simulation.story import simulate

SEEDS = 90
SHARDS = 3
MUTATION_SEEDS = 40


@pytest.mark.parametrize("shard", range(SHARDS))
def test_whatever_dies_nothing_is_bought_twice_and_nothing_paid_for_is_lost(shard):
    per_shard = SEEDS // SHARDS
    coverage = cover(range(shard * per_shard, (shard + 1) * per_shard), workers=1)
    assert [(verdict.seed, verdict.broken) for verdict in coverage.failing] == []
    assert coverage.seen["crashes"] > per_shard / 4, "the worlds have become too friendly"


def test_the_same_seed_is_the_same_world_step_by_step():
    for seed in range(0, 60, 12):
        assert simulate(seed).trace == simulate(seed).trace, f"seed {seed}"


@pytest.mark.parametrize("mutation", MUTATIONS[:3], ids=lambda mutation: mutation.name)
def test_a_broken_engine_is_found_out(mutation):
    assert hunt(mutation, MUTATION_SEEDS).seed is not None


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_mutation_still_fits_the_engine(mutation):
    assert (PROJECT / "batcher" / mutation.file).read_text().count(mutation.old) == 1

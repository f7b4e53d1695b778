"""The choice of the rank: right on the generator, 0 on noise, and what its record says."""

import jax
import numpy as np

from jaxspec.completion import row_scaled_spectral


def test_flips_find_the_rank_of_the_generator(x64, make_panel):
    hits = []
    for rank in (1, 2, 3):
        for seed in (10, 11):
            Y, D, _, _ = make_panel(seed, 80, 70, rank=rank, sigma=0.3)
            fit = row_scaled_spectral(Y, D, rank="flip", rank_max=5)
            hits.append(fit.rank.tolist() == [rank, rank])
            path = np.asarray(fit.rank_path)
            for arm in range(2):
                chosen = int(fit.rank[arm])
                assert np.all(path[arm, :chosen] > 1.06)
                assert path[arm, chosen] <= 1.06 or chosen == 5
                assert np.isnan(path[arm, chosen + 1 :]).all()
    assert sum(hits) >= 5


def test_noise_has_rank_zero(x64, make_panel):
    ranks = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        Y, D = rng.standard_normal((80, 70)), rng.random((80, 70)) < 0.5
        ranks += row_scaled_spectral(Y, D, rank="flip", rank_max=5).rank.tolist()
    assert ranks.count(0) >= 9


def test_longer_sign_blocks_do_not_count_serial_correlation_as_rank(x64):
    chosen = {1: [], 20: []}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        E = rng.standard_normal((80, 70))
        for j in range(1, 70):
            E[:, j] = 0.8 * E[:, j - 1] + 0.6 * E[:, j]
        D = rng.random((80, 70)) < 0.5
        for block, found in chosen.items():
            found += row_scaled_spectral(E, D, rank="flip", rank_max=5, sign_block=block).rank.tolist()
    assert min(chosen[1]) >= 3
    assert max(chosen[20]) <= 1


def test_ceiling_is_flagged(x64, make_panel):
    Y, D, _, _ = make_panel(1, 80, 70, rank=3, sigma=0.1)
    low, given = (row_scaled_spectral(Y, D, rank=rank, rank_max=2) for rank in ("flip", 2))
    assert low.rank.tolist() == [2, 2]
    assert low.at_rank_max.tolist() == [True, True]
    assert given.at_rank_max.tolist() == [False, False]


def test_key_is_all_that_the_choice_draws_from(x64, make_panel):
    Y, D, _, _ = make_panel(2, 80, 70)
    same = [row_scaled_spectral(Y, D, rank_max=5, key=key).rank_path for key in (None, jax.random.key(0))]
    other = row_scaled_spectral(Y, D, rank_max=5, key=jax.random.key(1)).rank_path
    np.testing.assert_array_equal(*same)
    assert not np.array_equal(same[0], other, equal_nan=True)

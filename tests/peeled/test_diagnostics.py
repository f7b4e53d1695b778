"""Defects, statistics of a circle, hidden orders and null models."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.peeled import (
    PermutationAction,
    balancedness_defect,
    circulant,
    circulant_defect,
    circulant_r2,
    cosines,
    discover_cyclic_order,
    equiangular_std,
    equinorm_cv,
    equivalent_orders,
    factorization_defect,
    gaussian_test,
    group_defect,
    harmonic_score,
    mode_power,
    orbitals,
    permutation_test,
    simplex_etf_defect,
    token_set_test,
)
from jaxspec.peeled.circular import all_orders, canonical_order

SIMPLEX = jnp.eye(6) - 1 / 6


def circle(n, k=1):
    """Gram matrix of a regular polygon whose tokens go round k times."""
    angles = 2 * np.pi * k * np.arange(n) / n
    return jnp.asarray(np.cos(angles[:, None] - angles), jnp.float32)


def noisy(seed, n, amount):
    """A circle with symmetric noise of that relative Frobenius size, and a shuffled order of it."""
    rng = np.random.default_rng(seed)
    G, noise = np.asarray(circle(n)), rng.standard_normal((n, n))
    noise = noise + noise.T
    order = rng.permutation(n)
    G = G + amount * np.linalg.norm(G) / np.linalg.norm(noise) * noise
    hidden = np.empty_like(G)
    hidden[np.ix_(order, order)] = G
    return jnp.asarray(hidden, jnp.float32), canonical_order(order)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_defects_do_not_depend_on_scale_and_vanish_for_their_geometry(scale):
    rng = np.random.default_rng(0)
    M = jnp.asarray(rng.standard_normal((6, 6)) * scale, jnp.float32)
    kernel = jnp.asarray(rng.standard_normal(6) * scale, jnp.float32)
    mean = np.mean([np.roll(np.asarray(M, float), (k, k), (0, 1)) for k in range(6)], axis=0)
    defect = np.linalg.norm(np.asarray(M, float) - mean) / np.linalg.norm(np.asarray(M, float))
    np.testing.assert_allclose(circulant_defect(M), defect, rtol=1e-5)
    assert float(circulant_defect(circulant(kernel))) < 1e-6
    assert float(simplex_etf_defect(scale * SIMPLEX)) < 1e-6
    gram = np.asarray(M, float) @ np.asarray(M, float).T
    expected = np.linalg.norm(gram / np.linalg.norm(gram) - (np.eye(6) - 1 / 6) / np.sqrt(5))
    np.testing.assert_allclose(simplex_etf_defect(M), expected, rtol=1e-5)
    assert float(equinorm_cv(scale * SIMPLEX)) < 1e-6
    assert float(equiangular_std(scale * SIMPLEX)) < 1e-6
    norms = np.linalg.norm(np.asarray(M, float), axis=1)
    np.testing.assert_allclose(equinorm_cv(M), norms.std() / norms.mean(), rtol=1e-5)
    angles = (np.asarray(M, float) / norms[:, None]) @ (np.asarray(M, float) / norms[:, None]).T
    np.testing.assert_allclose(equiangular_std(M), angles[np.triu_indices(6, 1)].std(), rtol=1e-5)
    np.testing.assert_allclose(cosines(M), angles, atol=1e-6)


def test_defects_of_factors():
    rng = np.random.default_rng(1)
    u, _, vt = np.linalg.svd(rng.standard_normal((6, 8)), full_matrices=False)
    s = np.array([3.0, 2.0, 1.0, 0.5, 0.2, 0.0])
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    W, H = u * np.sqrt(s) @ rotation, (rotation.T * np.sqrt(s)) @ vt
    W, H = (u * np.sqrt(s)) @ rotation, 2 * rotation.T @ (np.sqrt(s)[:, None] * vt)
    Z = jnp.asarray(W @ H, jnp.float32)
    W, H = jnp.asarray(W, jnp.float32), jnp.asarray(H, jnp.float32)
    assert float(balancedness_defect(W, H)) < 1e-6
    assert float(factorization_defect(W, Z)) < 1e-6
    other = jnp.asarray(rng.standard_normal((6, 6)), jnp.float32)
    root = (u * s) @ u.T
    gram = np.asarray(other, float) @ np.asarray(other, float).T
    expected = np.linalg.norm(gram / np.linalg.norm(gram) - root / np.linalg.norm(root))
    np.testing.assert_allclose(factorization_defect(other, Z), expected, rtol=1e-5)
    assert float(balancedness_defect(other, H)) > 0.1
    zeros = jnp.zeros((6, 6))
    assert float(balancedness_defect(zeros, zeros)) == float(factorization_defect(zeros, zeros)) == 0
    assert float(simplex_etf_defect(zeros)) == pytest.approx(1.0)
    assert float(equinorm_cv(zeros)) == float(equiangular_std(zeros)) == 0
    labels = orbitals(PermutationAction.symmetric(6))[1]
    assert float(group_defect(SIMPLEX, labels)) < 1e-6


def test_statistics_of_a_circle_against_plain_loops():
    rng = np.random.default_rng(2)
    for n in (7, 12):
        A = rng.standard_normal((n, 5))
        G = A @ A.T
        pairs = list(itertools.combinations(range(n), 2))
        values = np.array([G[i, j] for i, j in pairs])
        classes = np.array([min(j - i, n - j + i) for i, j in pairs])
        within = sum(np.sum((values[classes == d] - values[classes == d].mean()) ** 2) for d in set(classes))
        r2 = 1 - within / np.sum((values - values.mean()) ** 2)
        np.testing.assert_allclose(circulant_r2(jnp.asarray(G, jnp.float32)), r2, atol=1e-5)
        order = rng.permutation(n)
        score = sum(G[order[i], order[j]] * math.cos(2 * math.pi * (i - j) / n) for i in range(n) for j in range(n))
        np.testing.assert_allclose(harmonic_score(jnp.asarray(G, jnp.float32), order), score, rtol=1e-4)
        waves = np.exp(2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n)
        energy = np.einsum("ik,ij,jk->k", waves.conj(), G, waves).real
        power = np.array([energy[k] + (energy[n - k] if 2 * k != n else 0) for k in range(1, n // 2 + 1)])
        np.testing.assert_allclose(mode_power(jnp.asarray(G, jnp.float32)), power / power.sum(), atol=1e-5)
    np.testing.assert_allclose(mode_power(circle(7, 2)), (0, 1, 0), atol=1e-6)
    assert np.all(np.asarray(mode_power(jnp.ones((5, 5)))) == pytest.approx(0, abs=1e-6))
    assert math.isnan(float(circulant_r2(jnp.full((5, 5), 0.3))))


def test_a_circulant_is_circulant_in_every_multiple_of_its_order():
    for n, count in ((7, 3), (12, 2)):
        orders = equivalent_orders(np.arange(n))
        assert orders.shape == (count, n)
        assert len({tuple(o) for o in orders}) == count
        G = circle(n) + 0.3 * circle(n, 2)
        for order in orders:
            assert float(circulant_defect(G[order][:, order])) < 1e-6
            assert float(circulant_r2(G[order][:, order])) == pytest.approx(1.0, abs=1e-5)
        scores = [float(harmonic_score(G, order)) for order in orders]
        assert np.argmax(scores) == 0


def test_all_orders_are_all_and_each_once():
    orders = all_orders(6)
    assert orders.shape == (60, 6)
    assert len({tuple(canonical_order(o)) for o in orders}) == 60
    assert all_orders(1).tolist() == [[0]]
    assert all_orders(2).tolist() == [[0, 1]]
    assert canonical_order(np.array([3, 2, 0, 1])).tolist() == [0, 1, 3, 2]


def test_the_exact_test_reaches_its_smallest_p_values():
    exact = permutation_test(circulant_r2, circle(7))
    assert exact.exact
    assert exact.p_value == pytest.approx(3 / 360)  # the equivalent orders tie
    assert exact.statistic == pytest.approx(1.0, abs=1e-5)
    tie_broken = permutation_test(harmonic_score, circle(7))
    assert tie_broken.p_value == pytest.approx(1 / 360)
    constant = permutation_test(circulant_r2, jnp.ones((7, 7)))
    assert constant.p_value == 1
    assert math.isnan(constant.statistic)
    for scale in (1e-20, 1e20):
        assert permutation_test(harmonic_score, scale * circle(7)).p_value == pytest.approx(1 / 360)
    sampled = permutation_test(harmonic_score, circle(12), key=jax.random.key(0), num_samples=999)
    assert not sampled.exact
    assert sampled.p_value == pytest.approx(1 / 1000)


def test_exact_and_sampled_tests_agree():
    rng = np.random.default_rng(3)
    A = rng.standard_normal((7, 3))
    G = jnp.asarray(A @ A.T, jnp.float32)
    exact = permutation_test(harmonic_score, G)
    sampled = permutation_test(harmonic_score, G, key=jax.random.key(1), exact_limit=6, num_samples=4000)
    deviation = math.sqrt(exact.p_value * (1 - exact.p_value) / 4000)
    assert abs(exact.p_value - sampled.p_value) < 5 * deviation + 1e-3
    assert abs(exact.null_mean - sampled.null_mean) < 5 * exact.null_std / math.sqrt(4000)
    assert sampled.null_std == pytest.approx(exact.null_std, rel=0.1)


def test_the_permutation_test_keeps_its_level_on_gaussian_rows():
    """200 Gaussian tables: at most 5% below 0.05, plus three standard errors."""
    rows = np.random.default_rng(4).standard_normal((200, 7, 16)).astype(np.float32)
    below = [permutation_test(harmonic_score, cosines(jnp.asarray(W), center=True)).p_value <= 0.05 for W in rows]
    assert np.mean(below) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_hidden_orders_are_found():
    for n, amount, least in ((7, 0.4, 9), (12, 0.4, 9), (12, 0.0, 10)):
        found = 0
        for seed in range(10):
            G, order = noisy(seed, n, amount)
            result = discover_cyclic_order(G, key=jax.random.key(seed), num_samples=19)
            found += np.array_equal(result.order, order)
            assert np.array_equal(result.equivalent_orders[0], result.order)
            assert result.score >= float(harmonic_score(_centred(G), order)) * (1 - 1e-4)
        assert found >= least
    assert result.p_value == 1 / 20
    assert result.circulant_r2 == pytest.approx(1.0, abs=1e-5)


def _centred(G):
    return G - G.mean(0) - G.mean(1)[:, None] + G.mean()


def test_refining_never_lowers_the_score():
    for seed in range(3):
        G, _ = noisy(seed, 12, 0.9)
        rough = discover_cyclic_order(G, key=jax.random.key(0), refine=False, num_samples=1)
        fine = discover_cyclic_order(G, key=jax.random.key(0), num_samples=1)
        assert fine.score >= rough.score * (1 - 1e-6)


def test_the_p_value_of_a_discovered_order_accounts_for_the_search():
    """Gaussian rows: the best of all orders always looks good, the p-value must stay uniform."""
    p_values = []
    for seed in range(40):
        W = np.random.default_rng(seed).standard_normal((7, 7)).astype(np.float32)
        W = W - W.mean(0)
        p_values.append(discover_cyclic_order(jnp.asarray(W @ W.T), key=jax.random.key(seed), num_samples=19).p_value)
    # Uniform on 1/20..1: mean 0.525, standard error 0.29 / sqrt(40).
    assert abs(np.mean(p_values) - 0.525) < 3 * 0.29 / math.sqrt(40)


def test_random_rows_look_like_a_frame_and_the_null_says_so():
    rows = jax.random.normal(jax.random.key(0), (8, 48))
    result = gaussian_test(centred_defect, rows, key=jax.random.key(1), num_samples=999)
    assert 0.3 < result.null_mean < 0.44
    assert result.null_mean == pytest.approx(0.370, abs=0.02)
    assert result.p_value > 0.01
    frame = gaussian_test(centred_defect, jnp.eye(8, 48), key=jax.random.key(1), num_samples=999)
    assert frame.p_value == pytest.approx(1 / 1000)
    wide = gaussian_test(
        centred_defect, jax.random.normal(jax.random.key(2), (7, 4096)), key=jax.random.key(3), num_samples=99
    )
    assert wide.statistic < 0.06 < 0.3  # random, and yet a frame to a few per cent
    large = gaussian_test(equinorm_cv, rows, key=jax.random.key(1), num_samples=99, small=False)
    assert 0.01 <= large.p_value <= 1


def centred_defect(W):
    return simplex_etf_defect(W, center=True)


def test_other_tokens_of_the_table_are_a_null_too():
    table = jax.random.normal(jax.random.key(0), (50, 8))
    table = table.at[jnp.asarray([3, 8, 20, 41])].set(jnp.eye(4, 8))
    special = token_set_test(centred_defect, table, [3, 8, 20, 41], key=jax.random.key(1), num_samples=199)
    assert special.p_value == pytest.approx(1 / 200)
    usual = token_set_test(centred_defect, table, [0, 1, 2, 4], key=jax.random.key(1), num_samples=199)
    assert usual.p_value > 0.01


def test_centred_noise_is_no_simplex_against_a_null_that_is_centred_too():
    """Subtracting the mean brings any rows nearer to a simplex: raw Gaussian rows are no null for them."""
    p_values = []
    for seed in range(40):
        rows = np.random.default_rng(seed).standard_normal((7, 64))
        key = jax.random.key(seed)
        tested = gaussian_test(simplex_etf_defect, rows, key=key, num_samples=99, center=True)
        again = gaussian_test(simplex_etf_defect, rows - rows.mean(0), key=key, num_samples=99, center=True)
        assert tested.p_value == pytest.approx(again.p_value, abs=0.021)
        p_values.append(tested.p_value)
    assert np.mean(np.array(p_values) <= 0.05) < 0.2  # 40 draws of probability .05: more than 7 in one of 1e3 runs
    assert abs(np.mean(p_values) - 0.5) < 4 * np.sqrt(1 / 12 / 40)
    with pytest.warns(UserWarning, match="center=True"):
        fooled = gaussian_test(simplex_etf_defect, rows - rows.mean(0), key=key, num_samples=99)
    assert fooled.p_value < 0.05

"""Solvers that use a symmetry: the oracles, and agreement of every route that applies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.peeled import (
    LayerPeeledProblem,
    PermutationAction,
    circulant,
    circulant_defect,
    duality_gap,
    factorize_logits,
    geometric_kernel,
    k_hot_targets,
    one_hot_kernel,
    orbit_representatives,
    orbit_size,
    orbit_targets,
    simplex_etf_defect,
    solve_cyclic,
    solve_exchangeable,
    solve_logits,
    solve_orbits,
    von_mises_kernel,
)
from tests.peeled.oracles import ASYM7, CYCLIC, HOMOGENEOUS, kernel

pytestmark = pytest.mark.usefixtures("x64")
ACTIONS = {
    "symmetric": PermutationAction.symmetric,
    "affine": PermutationAction.affine,
    "squares": lambda n: PermutationAction.affine(n, [2]),
    "fano": lambda n: PermutationAction.fano(),
}


@pytest.mark.parametrize("case", CYCLIC.values(), ids=CYCLIC)
def test_cyclic_oracles_by_three_routes(case):
    name, E, value, multiplier, moduli, rank = case
    p = kernel(*name)
    n = p.size
    fourier = solve_cyclic(p, E)
    full = solve_logits(LayerPeeledProblem(circulant(p), budget_W=E))
    orbits = solve_orbits(p[:, None], PermutationAction.cyclic(n), None, [n], E)
    for solution in (fourier, full, orbits):
        assert bool(solution.converged)
        np.testing.assert_allclose(solution.value, value, rtol=0, atol=1e-9)
        np.testing.assert_allclose(solution.value, fourier.value, rtol=0, atol=1e-9)
        np.testing.assert_allclose(solution.multiplier, multiplier, atol=1e-8)
        assert int(solution.rank) == rank
    found = np.abs(np.fft.rfft(np.asarray(fourier.logits)))[1:]
    np.testing.assert_allclose(found, moduli, atol=1e-6)
    whole = np.sort(np.abs(np.fft.fft(np.asarray(fourier.logits))))[::-1]
    np.testing.assert_allclose(fourier.singular_values, whole, atol=1e-12)
    np.testing.assert_allclose(full.logits, circulant(fourier.logits), atol=1e-9)
    np.testing.assert_allclose(orbits.logits[:, 0], fourier.logits, atol=1e-6)
    assert float(circulant_defect(full.logits)) < 1e-12


def test_cyclic_logits_and_gram_matrix_of_the_asymmetric_kernel():
    solution = solve_cyclic(ASYM7, 1.0, tol=1e-14)
    expected = (-0.08868682, 0.94599981, 0.40121804, 0.02561374, -0.39690129, -0.56825695, -0.31898654)
    np.testing.assert_allclose(solution.logits, expected, atol=1e-7)
    W, H = factorize_logits(circulant(solution.logits), 1.0, 1.0)
    gram = np.asarray(W @ W.T)
    np.testing.assert_allclose(gram[0, :4], (1, 0.17796617, -0.16317784, -0.51478833), atol=1e-7)
    assert float(circulant_defect(W @ W.T)) < 1e-12
    assert float(circulant_defect(H.T @ H)) < 1e-12
    assert float(simplex_etf_defect(W)) == pytest.approx(0.5626, abs=1e-4)
    # Reflection-symmetric kernels with positive phases are self-dual, this one is not.
    symmetric = solve_cyclic(geometric_kernel(7, 1.0), 1.0, tol=1e-14)
    np.testing.assert_allclose(symmetric.logits.max(), 1.0, atol=1e-9)
    W, H = factorize_logits(circulant(symmetric.logits), 1.0, 1.0)
    np.testing.assert_allclose(H.T, np.roll(W, -1, axis=0), atol=1e-6)
    assert float(simplex_etf_defect(W)) == pytest.approx(0.88, abs=0.005)
    assert float(jnp.max(solution.logits)) < 0.95


def test_beyond_the_last_budget_logits_are_the_logarithm_of_the_kernel():
    centred = np.log(ASYM7) - np.log(ASYM7).mean()
    onset = np.abs(np.fft.fft(centred)).sum() / 7
    assert onset == pytest.approx(2.5083271, abs=1e-7)
    below, above = solve_cyclic(ASYM7, onset * (1 - 1e-9)), solve_cyclic(ASYM7, onset * (1 + 1e-9))
    assert (bool(below.active), bool(above.active)) == (True, False)
    np.testing.assert_allclose(above.value, 1.3639668666, atol=1e-10)
    np.testing.assert_allclose(above.logits, centred, atol=1e-12)
    assert bool(above.converged)


@pytest.mark.parametrize(("n", "kappa", "E", "value"), [(7, 2.0, 1.0, 1.4834759031), (12, 2.0, 1.0, 2.0230463397)])
def test_von_mises_kernels_put_tokens_on_a_regular_polygon(n, kappa, E, value):
    p = von_mises_kernel(n, kappa, 3)
    for budget in (E, kappa + 1):
        solution = solve_cyclic(p, budget)
        angles = 2 * np.pi * (np.arange(n) - 3) / n
        np.testing.assert_allclose(solution.logits, min(kappa, budget) * np.cos(angles), atol=1e-9)
        assert int(solution.rank) == 2
    np.testing.assert_allclose(solve_cyclic(p, E).value, value, atol=1e-9)


def test_one_hot_kernels_give_a_simplex():
    for eps, E in ((0.1, 1.0), (0.1, 9.0), (0.0, 2.0)):
        p = np.asarray(one_hot_kernel(7, eps))
        solution = solve_cyclic(p, E)
        cap = 6 / 7 * np.log(p[1] / p[0]) if eps else np.inf
        peak = min(E, cap)
        np.testing.assert_allclose(solution.logits[1], peak, atol=1e-7)
        np.testing.assert_allclose(np.delete(solution.logits, 1), -peak / 6, atol=1e-7)
    np.testing.assert_allclose(solve_cyclic(one_hot_kernel(7, 0.1), 1.0).value, 1.1537611267, atol=1e-9)
    np.testing.assert_allclose(solution.value, np.log1p(6 * np.exp(-2 * 7 / 6)), atol=1e-10)


def test_three_points_on_a_cycle_are_homogeneous():
    p = np.array([0.6, 0.3, 0.1])
    fourier = solve_cyclic(p, 0.3)
    closed = solve_exchangeable(p[:, None], None, [3], 0.3, action=PermutationAction.cyclic(3))
    np.testing.assert_allclose([fourier.value, closed.value], 0.9905557445, atol=1e-9)
    W, _ = factorize_logits(circulant(closed.logits[:, 0]), 0.3, 0.3)
    assert float(simplex_etf_defect(W)) < 1e-13


def test_several_orbits_of_contexts_by_three_routes():
    kernels = jnp.stack([geometric_kernel(7, 1.0, 1), geometric_kernel(7, 0.7, 6), jnp.asarray(ASYM7)])[None]
    weights = np.array([0.5, 0.3, 0.2])
    solution = solve_cyclic(kernels, 1.0)
    np.testing.assert_allclose(solution.value, 1.4991833792, atol=1e-9)
    for mass in (None, weights):
        blocks = solve_cyclic(kernels, 1.0, weights=mass)
        full_weights = None if mass is None else np.repeat(mass / 7, 7)
        full = solve_logits(LayerPeeledProblem(circulant(kernels), full_weights))
        orbits = solve_orbits(kernels[0].T, PermutationAction.cyclic(7), mass, [7, 7, 7], 1.0)
        np.testing.assert_allclose(full.value, blocks.value, atol=1e-9)
        np.testing.assert_allclose(orbits.value, blocks.value, atol=1e-9)
        np.testing.assert_allclose(full.logits, circulant(blocks.logits), atol=1e-8)
        np.testing.assert_allclose(orbits.logits, blocks.logits[0].T, atol=1e-6)
        np.testing.assert_allclose(full.singular_values, blocks.singular_values[:7], atol=1e-8)
        assert (
            float(duality_gap(circulant(blocks.logits), LayerPeeledProblem(circulant(kernels), full_weights))) < 2e-10
        )


def test_blocks_of_tokens_and_contexts_agree_with_the_full_program():
    rng = np.random.default_rng(0)
    kernels = np.moveaxis(
        rng.dirichlet(np.ones(8), 3).reshape(3, 2, 4), 0, 1
    )  # two token, three context orbits of four
    blocks = solve_cyclic(kernels, 1.5)
    full = solve_logits(LayerPeeledProblem(circulant(kernels), budget_W=1.5))
    assert bool(blocks.converged)
    np.testing.assert_allclose(blocks.value, full.value, atol=1e-9)
    np.testing.assert_allclose(circulant(blocks.logits), full.logits, atol=1e-6)
    np.testing.assert_allclose(blocks.singular_values, full.singular_values, atol=1e-6)
    np.testing.assert_allclose(blocks.multiplier, full.multiplier, atol=1e-8)


def test_weekdays_beside_fixed_words():
    column = np.concatenate([0.8 * np.asarray(geometric_kernel(7, 1.0)), [0.1, 0.06, 0.04]])
    fixed = np.concatenate([np.full(7, 0.3 / 7), [0.5, 0.15, 0.05]])
    action = PermutationAction.union(PermutationAction.cyclic(7), PermutationAction.trivial(3))
    solution = solve_orbits(np.stack([column, fixed], 1), action, None, [7, 1], 1.0)
    np.testing.assert_allclose(solution.value, 1.9464657429, atol=1e-9)
    expected = (3.553390, 3.553390, 1.641559, 0.052052, 0.052052, 0.045915, 0.045915)
    np.testing.assert_allclose(solution.singular_values[:7], expected, atol=2e-6)
    assert int(solution.rank) == 7
    # The same from the full targets.
    targets = np.column_stack([orbit_targets(column, action), fixed])
    parts = orbit_representatives(targets, action)
    assert parts.size.tolist() == [7, 1]
    np.testing.assert_allclose(parts.mass, [7 / 8, 1 / 8])
    again = solve_orbits(parts.columns, action, parts.mass, parts.size, 1.0)
    full = solve_logits(LayerPeeledProblem(targets))
    np.testing.assert_allclose(again.value, full.value, atol=1e-9)


@pytest.mark.parametrize("case", HOMOGENEOUS.values(), ids=HOMOGENEOUS)
def test_homogeneous_oracles(case):
    name, V, target, count, value = case
    action, column = ACTIONS[name](V), np.asarray(target)[:, None]
    assert orbit_size(column[:, 0], action) == count
    closed = solve_exchangeable(column, None, [count], 1.0, action=action)
    assert bool(closed.converged)
    np.testing.assert_allclose(closed.value, value, atol=1e-9)
    np.testing.assert_allclose(closed.singular_values[:-1], np.sqrt(V * count) / (V - 1), rtol=1e-12)
    assert int(closed.rank) == V - 1
    np.testing.assert_allclose(closed.logits.sum(0), 0, atol=1e-12)
    # Same level sets as the target.
    levels = np.asarray(closed.logits[:, 0])
    assert len(np.unique(levels.round(9))) == len(np.unique(target))
    if V == 7:
        orbits = solve_orbits(column, action, None, [count], 1.0)
        np.testing.assert_allclose(orbits.value, closed.value, atol=1e-9)
        np.testing.assert_allclose(orbits.multiplier, closed.multiplier, atol=1e-7)
    if V == 5 and name == "symmetric":
        whole, targets = orbit_targets(levels, action), orbit_targets(column[:, 0], action)
        assert float(duality_gap(jnp.asarray(whole), LayerPeeledProblem(targets))) < 1e-12
        W, _ = factorize_logits(whole, 1.0, 1.0)
        assert float(simplex_etf_defect(W)) < 1e-13


def test_logits_of_the_homogeneous_oracles_and_two_orbits_together():
    pair = solve_exchangeable(np.array(HOMOGENEOUS["S6"][2])[:, None], None, [15], 1.0, assume=True)
    np.testing.assert_allclose(pair.logits[[0, 2], 0], (0.632456, -0.316228), atol=1e-6)
    four = solve_exchangeable(np.array(HOMOGENEOUS["S4"][2])[:, None], None, [24], 1.0, assume=True)
    np.testing.assert_allclose(four.logits[:, 0], (0.75659, 0.28286, -0.254522, -0.784929), atol=1e-6)
    both = np.array([[0.7, 0.1, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1]]).T
    mass = np.array([0.4, 0.6])
    closed = solve_exchangeable(both, mass, [4, 6], 1.0, action=PermutationAction.symmetric(4))
    np.testing.assert_allclose(closed.value, 1.1064484034, atol=1e-9)
    uneven = solve_exchangeable(both, [0.9, 0.1], [4, 6], 0.7, action=PermutationAction.symmetric(4))
    orbits = solve_orbits(both, PermutationAction.symmetric(4), [0.9, 0.1], [4, 6], 0.7)
    np.testing.assert_allclose(uneven.value, orbits.value, atol=1e-9)
    np.testing.assert_allclose(uneven.logits, orbits.logits, atol=1e-5)


@pytest.mark.parametrize("E", [0.0, 1e-12, 1e-3, 0.1, 3.0, 30.0, 100.0])
def test_exchangeable_certifies_every_budget(E):
    columns = np.array(
        [[0.6, 0.3, 0.1, 0, 0], [0.96, 0.01, 0.01, 0.01, 0.01], [1 / 3, 1 / 3, 1 / 3, 0, 0], [1, 0, 0, 0, 0]]
    ).T
    for index in range(4):  # alone: the others have no mass
        solution = solve_exchangeable(columns, np.eye(4)[index], [60, 5, 10, 5], E, assume=True)
        assert bool(solution.converged)
        assert abs(float(solution.gap)) < 1e-13 * (1 + E)
        assert np.all(np.isfinite(solution.logits))
        assert np.all(np.asarray(solution.logits)[:, np.arange(4) != index] == 0)
    mixed = solve_exchangeable(columns, None, [60, 5, 10, 5], E, assume=True)
    assert bool(mixed.converged)
    if E == 0:
        np.testing.assert_allclose(mixed.value, np.log(5), rtol=1e-14)
        assert np.all(np.asarray(mixed.logits) == 0)


def test_k_hot_targets_are_two_orbits_of_one_kind():
    targets = np.asarray(k_hot_targets(5, 2, 0.1))
    assert targets.shape == (5, 10)
    parts = orbit_representatives(targets, PermutationAction.symmetric(5))
    assert parts.size.tolist() == [10]
    closed = solve_exchangeable(parts.columns, parts.mass, parts.size, 1.2, action=PermutationAction.symmetric(5))
    np.testing.assert_allclose(solve_logits(LayerPeeledProblem(targets, budget_W=1.2)).value, closed.value, atol=1e-9)


def test_cyclic_maps_over_budgets_and_starts_warm():
    p = geometric_kernel(12, 1.0)
    budgets = jnp.linspace(0.1, 2.5, 8)
    mapped = jax.vmap(lambda E: solve_cyclic(p, E, checked=False))(budgets)
    assert bool(mapped.converged.all())
    alone = solve_cyclic(p, budgets[5])
    np.testing.assert_allclose(mapped.value[5], alone.value, atol=1e-10)
    warm = solve_cyclic(p, budgets[5], init=alone)
    assert int(warm.iterations) <= 10 < int(alone.iterations)


def test_single_precision_is_certified_to_its_rounding():
    for name, E, value, _, _, _ in list(CYCLIC.values())[:4]:
        p = kernel(*name).astype(jnp.float32)
        solution = solve_cyclic(p, E)
        assert solution.logits.dtype == jnp.float32
        assert bool(solution.converged)
        assert abs(float(solution.value) - value) < 2e-6
    closed = solve_exchangeable(np.float32(ASYM7)[:, None], None, [42], 1.0, assume=True)
    assert bool(closed.converged)
    assert abs(float(closed.value) - 1.5456772279) < 1e-6


def test_geometry_is_lipschitz_in_the_targets():
    """Targets near a circulant have nearly circulant logits: the ratio of the defects stays near 1."""
    P = np.asarray(circulant(geometric_kernel(7, 1.0)))
    rng = np.random.default_rng(7)
    noise = rng.standard_normal((7, 7))
    for delta in (1e-3, 1e-2):
        Q = P * np.exp(delta * noise)
        Q /= Q.sum(0)
        logits = solve_logits(LayerPeeledProblem(Q)).logits
        ratio = float(circulant_defect(logits)) / float(circulant_defect(jnp.asarray(Q - 1 / 7)))
        assert 0.5 < ratio < 2


@pytest.mark.parametrize("E", [0.0, 0.1, 1.0])
def test_two_tokens_by_four_routes(E):
    """Closed form: logits (z, -z) with z = E, up to half the log-odds."""
    p, action = np.array([0.7, 0.3]), PermutationAction.cyclic(2)
    z = min(E, np.log(0.7 / 0.3) / 2)
    value = np.log(np.exp(z) + np.exp(-z)) - 0.4 * z
    routes = (
        solve_cyclic(p, E),
        solve_exchangeable(p[:, None], None, [2], E, action=action),
        solve_orbits(p[:, None], action, None, [2], E),
        solve_logits(LayerPeeledProblem(circulant(p), budget_W=E)),
    )
    for solution in routes:
        np.testing.assert_allclose(solution.value, value, rtol=1e-13)
        np.testing.assert_allclose(np.ravel(solution.logits)[0], z, atol=1e-7)
        assert bool(solution.converged)
        assert int(solution.rank) == (1 if E else 0)
        assert bool(solution.active) == (E < 0.4)

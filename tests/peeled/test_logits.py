"""The convex program for any targets: identities that hold for all of them, and closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.linalg import singular_values
from jaxspec.peeled import (
    LayerPeeledProblem,
    balancedness_defect,
    circulant,
    cosines,
    duality_gap,
    factorization_defect,
    factorize_logits,
    kkt_residual,
    one_hot_kernel,
    optimal_value,
    solve_logits,
    solve_logits_path,
    solve_logits_penalised,
)
from tests.peeled.oracles import random_targets

pytestmark = pytest.mark.usefixtures("x64")
V, M = 5, 7


@pytest.fixture(scope="module")
def targets():
    return random_targets(0, V, M)


@pytest.fixture(scope="module")
def solution(targets):
    with jax.enable_x64(True):
        return solve_logits(LayerPeeledProblem(targets, budget_W=0.8, budget_H=1.3), tol=1e-13)


def loss(Z, P, pi):
    """The loss in NumPy."""
    Z = np.asarray(Z)
    return np.sum(pi * (np.log(np.exp(Z - Z.max(0)).sum(0)) + Z.max(0) - (P * Z).sum(0)))


def frank_wolfe(P, pi, tau, steps):
    """Value of another method: conditional gradients with line search, in NumPy."""
    Z = np.zeros_like(P)
    for _ in range(steps):
        q = np.exp(Z - Z.max(0))
        G = (q / q.sum(0) - P) * pi
        u, _, vt = np.linalg.svd(G)
        D = -tau * np.outer(u[:, 0], vt[0]) - Z
        shares = np.linspace(0, 1, 101) ** 2
        values = [loss(Z + t * D, P, pi) for t in shares]
        Z = Z + shares[int(np.argmin(values))] * D
    return loss(Z, P, pi)


def test_the_optimum_is_certified_and_feasible(targets, solution):
    problem = LayerPeeledProblem(targets, budget_W=0.8, budget_H=1.3)
    assert bool(solution.converged)
    assert bool(solution.active)
    assert -1e-13 <= float(solution.gap) <= 1e-13
    np.testing.assert_allclose(solution.value, loss(solution.logits, targets, 1 / M), rtol=1e-13)
    np.testing.assert_allclose(solution.singular_values, np.linalg.svd(solution.logits)[1], atol=1e-13)
    np.testing.assert_allclose(solution.singular_values.sum(), np.sqrt(V * M * 0.8 * 1.3), rtol=1e-12)
    np.testing.assert_allclose(solution.logits.sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(duality_gap(solution.logits, problem), solution.gap, atol=1e-15)
    assert float(kkt_residual(solution.logits, problem)) < 1e-10
    assert int(solution.rank) == np.linalg.matrix_rank(np.asarray(solution.logits), tol=1e-10)
    # Another method stays above, and comes near.
    other = frank_wolfe(targets, 1 / M, float(problem.radius), 300)
    assert -1e-12 < other - float(solution.value) < 2e-3


def test_the_gap_bounds_the_distance_from_the_optimum_everywhere(targets, solution):
    problem = LayerPeeledProblem(targets, budget_W=0.8, budget_H=1.3)
    draws = np.random.default_rng(1).standard_normal((50, V, M))
    draws *= float(problem.radius) / np.linalg.svd(draws, compute_uv=False).sum(-1)[:, None, None]
    gaps = jax.vmap(lambda Z: duality_gap(Z, problem))(jnp.asarray(draws))
    values = np.array([loss(Z, targets, 1 / M) for Z in draws])
    assert np.all(values - np.asarray(gaps) <= float(solution.value) + 1e-12)
    assert np.all(np.asarray(gaps) > 0.01)
    assert float(kkt_residual(jnp.asarray(2 * draws[0]), problem)) >= 1 - 1e-12  # twice the radius


def test_only_the_product_of_the_budgets_matters_to_logits(targets, solution):
    problem = LayerPeeledProblem(targets, budget_W=1.3 * 0.8)
    other = solve_logits(eqx.tree_at(lambda p: p.budget_H, problem, jnp.asarray(1.0)), tol=1e-13)
    np.testing.assert_allclose(other.logits, solution.logits, atol=1e-9)


def test_permuted_targets_give_permuted_logits(targets, solution):
    rng = np.random.default_rng(2)
    rows, columns = rng.permutation(V), rng.permutation(M)
    problem = LayerPeeledProblem(targets[rows][:, columns], budget_W=0.8, budget_H=1.3)
    moved = solve_logits(problem, tol=1e-13)
    np.testing.assert_allclose(moved.logits, np.asarray(solution.logits)[rows][:, columns], atol=1e-6)
    np.testing.assert_allclose(moved.value, solution.value, atol=1e-12)


def test_factors_are_balanced_and_meet_their_budgets(targets, solution):
    W, H = factorize_logits(solution.logits, 0.8, 1.3)
    np.testing.assert_allclose(W @ H, solution.logits, atol=1e-13)
    np.testing.assert_allclose(jnp.sum(W**2) / V, 0.8, rtol=1e-11)
    np.testing.assert_allclose(jnp.sum(H**2) / M, 1.3, rtol=1e-11)
    assert float(balancedness_defect(W, H)) < 1e-12
    assert float(factorization_defect(W, solution.logits)) < 1e-12
    wide, tall = factorize_logits(solution.logits, 0.8, 1.3, 9)
    assert wide.shape == (V, 9)
    np.testing.assert_allclose(wide @ tall, solution.logits, atol=1e-13)
    with pytest.raises(ValueError, match="below the rank 4"):
        factorize_logits(solution.logits, 0.8, 1.3, 2)
    best, rest = factorize_logits(solution.logits, 0.8, 1.3, 2, truncate=True)
    error = np.linalg.norm(best @ rest - solution.logits, 2)
    np.testing.assert_allclose(error, solution.singular_values[2], rtol=1e-10)


def test_context_masses_weigh_the_columns_of_features(targets):
    mass = np.random.default_rng(3).dirichlet(np.full(M, 3.0))
    problem = LayerPeeledProblem(targets, mass, 0.8, 1.3, mass)
    solution = solve_logits(problem, tol=1e-13)
    assert bool(solution.converged)
    W, H = factorize_logits(solution.logits, 0.8, 1.3, context_mass=mass)
    np.testing.assert_allclose(W @ H, solution.logits, atol=1e-12)
    np.testing.assert_allclose(jnp.sum(W**2) / V, 0.8, rtol=1e-11)
    np.testing.assert_allclose(jnp.sum(mass * jnp.sum(H**2, 0)), 1.3, rtol=1e-11)
    assert float(kkt_residual(solution.logits, problem)) < 1e-10
    # No feasible factors do better: random directions around the optimum, put back into the budgets.
    rng = np.random.default_rng(4)
    for _ in range(30):
        w, h = W + 1e-3 * rng.standard_normal(W.shape), H + 1e-3 * rng.standard_normal(H.shape)
        w = w * min(1, float(np.sqrt(V * 0.8 / np.sum(w**2))))
        h = h * min(1, float(np.sqrt(1.3 / np.sum(mass * np.sum(h**2, 0)))))
        assert loss(w @ h, targets, mass) >= float(solution.value) - 1e-12


def test_a_column_without_weight_has_no_logits_and_equal_columns_equal_ones(targets):
    P = targets.copy()
    P[:, 3] = P[:, 1]
    weights = np.array([0.2, 0.15, 0.1, 0.15, 0.2, 0.2, 0.0])
    start = np.ones_like(P)
    solution = solve_logits(LayerPeeledProblem(P, weights), init=start)
    assert np.all(np.asarray(solution.logits[:, 6]) == 0)
    np.testing.assert_allclose(solution.logits[:, 3], solution.logits[:, 1], atol=1e-6)
    masses = np.array([0.2, 0.2, 0.1, 0.2, 0.2, 0.1, 0.0])
    weighed = solve_logits(LayerPeeledProblem(P, weights, context_mass=masses))
    assert bool(weighed.converged)
    assert np.all(np.asarray(weighed.logits[:, 6]) == 0)


def test_a_path_is_convex_and_decreasing_with_minus_the_multiplier_as_slope(targets):
    problem = LayerPeeledProblem(targets)
    budgets = jnp.asarray([0.0, 0.4, 0.8, 0.8 + 1e-4, 1.2, 50.0])
    path = solve_logits_path(problem, budgets, tol=1e-12)
    assert bool(path.converged.all())
    values, slopes = np.asarray(path.value), -np.asarray(path.multiplier) * np.sqrt(V * M)
    np.testing.assert_allclose(values[0], np.log(V), rtol=1e-14)
    assert np.all(np.asarray(path.logits[0]) == 0)
    np.testing.assert_allclose((values[3] - values[2]) / 1e-4, slopes[2], rtol=1e-3)
    tangent = values[:, None] + slopes[:, None] * (np.asarray(budgets) - np.asarray(budgets)[:, None])
    assert np.all(tangent <= values + 1e-11)
    single = solve_logits(LayerPeeledProblem(targets, budget_W=1.2), tol=1e-12)
    np.testing.assert_allclose(path.value[4], single.value, atol=1e-11)
    # The last budget does not bind: the logarithm of the targets, no multiplier.
    free = np.log(targets) - np.log(targets).mean(0)
    assert not bool(path.active[-1])
    assert float(path.multiplier[-1]) == 0
    np.testing.assert_allclose(path.logits[-1], free, atol=1e-12)
    np.testing.assert_allclose(values[-1], -np.sum(targets * np.log(targets)) / M, rtol=1e-13)


def test_the_penalised_program_meets_the_constrained_one(targets, solution):
    penalised = solve_logits_penalised(targets, None, solution.multiplier, tol=1e-13)
    assert bool(penalised.converged)
    np.testing.assert_allclose(penalised.value, solution.value, atol=1e-9)
    np.testing.assert_allclose(penalised.logits, solution.logits, atol=1e-5)
    np.testing.assert_allclose(penalised.multiplier, solution.multiplier, rtol=1e-5)
    top = np.linalg.norm((1 / V - targets) / M, 2)
    zero = solve_logits_penalised(targets, None, 1.0001 * top)
    assert np.all(np.asarray(zero.logits) == 0)
    assert int(zero.rank) == 0
    assert float(jnp.abs(solve_logits_penalised(targets, None, 0.999 * top).logits).max()) > 1e-4


def test_the_value_is_differentiable(targets):
    weights = np.random.default_rng(5).dirichlet(np.full(M, 3.0))

    def value(P, pi, tau):
        return optimal_value(P, pi, tau, tol=1e-13)

    grads = jax.grad(value, (0, 1, 2))(targets, weights, 4.0)
    rng = np.random.default_rng(6)
    dP = rng.standard_normal(targets.shape)
    dP -= dP.mean(0)  # stays on the simplex
    dpi = rng.standard_normal(M)
    dpi -= dpi.mean()
    moves = [(1e-4 * dP, 0 * dpi, 0.0), (0 * dP, 1e-4 * dpi, 0.0), (0 * dP, 0 * dpi, 1e-4)]
    for move in moves:
        ahead = value(targets + move[0], weights + move[1], 4.0 + move[2])
        behind = value(targets - move[0], weights - move[1], 4.0 - move[2])
        expected = sum(np.sum(g * d) for g, d in zip(grads, move, strict=True))
        np.testing.assert_allclose((ahead - behind) / 2, expected, rtol=1e-5, atol=1e-12)
    with pytest.raises(Exception, match="iterations ended"):
        optimal_value(targets, weights, 4.0, tol=1e-13, max_iter=1).block_until_ready()


def test_problems_map_over_budgets_and_targets_as_one_by_one(targets):
    budgets = jnp.asarray([0.5, 1.0, 2.0])

    def solve(P, budget):
        return solve_logits(LayerPeeledProblem(P, budget_W=budget, checked=False), tol=1e-11)

    stack = jnp.stack([jnp.asarray(random_targets(seed, V, M)) for seed in range(3)])
    mapped = jax.vmap(solve)(stack, budgets)
    alone = [solve(P, E) for P, E in zip(stack, budgets, strict=True)]
    np.testing.assert_allclose(mapped.value, [a.value for a in alone], atol=1e-10)
    assert bool(mapped.converged.all())


def test_new_numbers_do_not_compile_again(targets):
    from jaxspec.peeled.logits import solve_problem

    solve_logits(LayerPeeledProblem(targets))
    size = solve_problem._cached._cache_size()
    solve_logits(LayerPeeledProblem(random_targets(9, V, M), budget_W=1.7), tol=1e-9)
    assert solve_problem._cached._cache_size() == size


def test_the_hard_one_hot_case_is_solved_or_says_that_it_is_not():
    problem = LayerPeeledProblem(circulant(one_hot_kernel(7, 0.0)), budget_W=10.0)
    solution = solve_logits(problem)
    assert bool(solution.converged)
    np.testing.assert_allclose(solution.value, np.log1p(6 * np.exp(-10 * 7 / 6)), atol=1e-10)
    hard = solve_logits(LayerPeeledProblem(problem.targets, budget_W=30.0), max_iter=300)
    exact = np.log1p(6 * np.exp(-30 * 7 / 6))
    assert not bool(hard.converged)
    assert float(hard.gap) > 1e-10
    assert 0 <= float(hard.value) - exact <= float(hard.gap)


@pytest.mark.parametrize("targets", [np.full((4, 3), 0.25), np.ones((1, 3))])
def test_uniform_targets_and_a_single_token_need_no_logits(targets):
    solution = solve_logits(LayerPeeledProblem(targets))
    np.testing.assert_allclose(solution.logits, 0, atol=1e-15)
    np.testing.assert_allclose(solution.value, np.log(len(targets)), atol=1e-15)
    assert float(solution.multiplier) == 0
    assert int(solution.rank) == 0
    assert not bool(solution.active)


def test_single_precision_and_half(targets, solution):
    for dtype, error in ((np.float32, 3e-6), (jnp.bfloat16, 0.05)):
        problem = LayerPeeledProblem(jnp.asarray(targets, dtype), budget_W=0.8, budget_H=1.3, checked=False)
        assert problem.targets.dtype == np.float32
        single = solve_logits(problem)
        assert single.logits.dtype == np.float32
        assert bool(single.converged)
        assert abs(float(single.value) - float(solution.value)) < error
    assert float(singular_values(single.logits).sum()) <= float(problem.radius) * (1 + 1e-5)


def test_nan_under_jit_is_returned_and_not_called_converged(targets):
    bad = jnp.asarray(targets).at[0, 0].set(jnp.nan)
    solution = jax.jit(lambda P: solve_logits(LayerPeeledProblem(P)))(bad)
    assert not bool(solution.converged)
    assert np.isnan(float(solution.value))


def test_float32_runs_end_at_rounding_before_their_iterations_are_used_up():
    rng = np.random.default_rng(0)
    targets = rng.dirichlet(np.full(40, 0.1), size=120).T.astype(np.float32)
    weights = rng.dirichlet(np.ones(120)).astype(np.float32)
    problem = LayerPeeledProblem(targets, weights, budget_W=3.0, budget_H=1.5)
    for solution in (solve_logits(problem), solve_logits_penalised(targets, weights, np.float32(1e-3))):
        assert solution.value.dtype == jnp.float32
        assert not solution.converged
        assert solution.iterations < 2000
        assert 1e-6 < solution.gap < 1e-4
    path = solve_logits_path(problem, np.array([0.5, 2.0], np.float32))
    np.testing.assert_array_equal(path.converged, path.gap <= 1e-6)
    assert np.all(path.iterations < 2000)


def test_rare_classes_collapse_and_the_two_conventions_of_their_cost_differ():
    """Three frequent classes and three rare ones: at 100 to 1 the rare ones share a row, at 10 to 1 they do not yet."""

    def solved(ratio, per_sample):
        weights = np.array([ratio] * 3 + [1.0] * 3) / (3 * ratio + 3)
        mass = weights if per_sample else None
        solution = solve_logits(LayerPeeledProblem(jnp.eye(6), weights, 2.0, context_mass=mass))
        assert bool(solution.converged)
        W, H = factorize_logits(solution.logits, 2.0, 2.0, context_mass=mass)
        costs = np.full(6, 1 / 6) if mass is None else mass
        assert float(jnp.sum(costs * jnp.sum(H**2, axis=0))) == pytest.approx(2)  # the budget that is meant
        return solution, np.asarray(cosines(W))

    assert float(solved(10, False)[0].value) == pytest.approx(0.191, abs=5e-4)
    assert float(solved(10, True)[0].value) == pytest.approx(0.267, abs=5e-4)
    for per_sample in (False, True):
        balanced, spread, collapsed = (solved(ratio, per_sample) for ratio in (1, 10, 100))
        np.testing.assert_allclose(balanced[1][0, 1:], -0.2, atol=1e-5)
        assert int(balanced[0].rank) == int(spread[0].rank) == 5
        assert spread[1][3, 4] < 0.5
        assert int(collapsed[0].rank) == 3
        np.testing.assert_allclose(collapsed[1][3:, 3:], 1, atol=1e-6)

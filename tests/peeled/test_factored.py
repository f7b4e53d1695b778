"""The factorised program, which is not convex, reaches the optimum of the convex one: with a proof."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxspec.peeled import (
    LayerPeeledProblem,
    balancedness_defect,
    circulant,
    circulant_defect,
    duality_gap,
    factorization_defect,
    geometric_kernel,
    project_to_ball,
    solve_cyclic,
    solve_factored,
    solve_logits,
)
from jaxspec.peeled.factored import _lbfgs, _sgd
from tests.peeled.oracles import ASYM7, random_targets

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(0), 4)


def test_from_the_rank_on_every_start_ends_in_the_global_optimum(keys):
    p = geometric_kernel(7, 1.0)
    problem = LayerPeeledProblem(circulant(p), budget_W=0.25, budget_H=1.0)
    optimum = solve_cyclic(p, 0.5, tol=1e-13)
    assert int(optimum.rank) == 2
    found = jax.vmap(lambda key: solve_factored(key, problem, 3, tol=1e-13))(keys)
    assert bool(found.converged.all())
    np.testing.assert_allclose(found.value, optimum.value, atol=1e-10)
    assert np.all(np.asarray(found.gap) < 1e-7)
    for W, H in zip(found.W, found.H, strict=True):
        np.testing.assert_allclose(jnp.sum(W**2) / 7, 0.25, rtol=1e-9)
        np.testing.assert_allclose(jnp.sum(H**2) / 7, 1.0, rtol=1e-9)
        defects = [circulant_defect(W @ H), circulant_defect(W @ W.T), circulant_defect(H.T @ H)]
        assert max(float(d) for d in [*defects, balancedness_defect(W, H), factorization_defect(W, W @ H)]) < 1e-7
    np.testing.assert_allclose(duality_gap(found.W[0] @ found.H[0], problem), found.gap[0], atol=1e-12)


def test_below_the_rank_the_value_is_higher_and_the_gap_says_so(keys):
    """An odd dimension splits a pair of conjugate frequencies: no circulant, no proof."""
    p = jnp.asarray(ASYM7)
    problem = LayerPeeledProblem(circulant(p))
    optimum = solve_cyclic(p, 1.0)
    found = jax.vmap(lambda key: solve_factored(key, problem, 3))(keys)
    assert bool(found.converged.all())
    assert bool(found.stationary.all())
    assert not bool(found.certified.any())
    excess = np.asarray(found.value - optimum.value)
    assert np.all(excess > 1e-2)
    assert np.all(np.asarray(found.gap) >= excess)
    assert float(circulant_defect(found.W[0] @ found.H[0])) > 0.1


def test_budgets_that_do_not_bind_and_no_budget(keys):
    target = np.array([0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1])
    loose = LayerPeeledProblem(np.tile(target[:, None], 7), budget_W=5.0)
    inside = jax.vmap(lambda key: solve_factored(key, loose, 3))(keys)
    np.testing.assert_allclose(inside.value, -np.sum(target * np.log(target)), atol=1e-10)
    assert np.all(np.asarray(jnp.sum(inside.W**2, (1, 2))) < 7 * 5 * (1 + 1e-12))
    nothing = jax.vmap(lambda key: solve_factored(key, LayerPeeledProblem(loose.targets, budget_W=0.0), 3))(keys)
    np.testing.assert_allclose(nothing.value, np.log(7), rtol=1e-14)
    assert np.all(np.asarray(nothing.gap) == 0)
    assert bool(nothing.converged.all())


def test_per_vector_budgets_are_harder_and_certified(keys):
    P = jnp.asarray(random_targets(0, 5, 5))
    cycle = circulant(geometric_kernel(5, 1.0))

    def solve(key, targets):
        problem = LayerPeeledProblem(targets, budget_W=0.5, budget_H=2.0, norm="per_vector", checked=False)
        return solve_factored(key, problem, 10)

    found = jax.vmap(solve)(keys, jnp.stack([P, P, P, cycle]))
    assert np.all(np.asarray(found.gap) < 1e-8)
    assert np.all(np.asarray(found.gap) > -1e-12)
    np.testing.assert_allclose(found.value[:3], found.value[0], atol=1e-8)
    assert np.all(np.asarray(jnp.sum(found.W**2, 2)) <= 0.5 * (1 + 1e-12))
    assert np.all(np.asarray(jnp.sum(found.H**2, 1)) <= 2.0 * (1 + 1e-12))
    relaxed = solve_logits(LayerPeeledProblem(P))
    assert float(found.value[0]) > float(relaxed.value) + 1e-3
    # Equal weights certify only against the relaxation.
    problem = LayerPeeledProblem(P, budget_W=0.5, budget_H=2.0, norm="per_vector")
    assert float(duality_gap(found.W[0] @ found.H[0], problem)) >= float(found.value[0] - relaxed.value) - 1e-10
    # Where the group is transitive both budgets give the same value.
    np.testing.assert_allclose(found.value[3], solve_logits(LayerPeeledProblem(cycle)).value, atol=1e-9)


def test_projected_sgd_reaches_the_optimum(keys):
    p = geometric_kernel(7, 1.0)
    problem = LayerPeeledProblem(circulant(p), norm="per_vector")
    found = solve_factored(keys[0], problem, 8, method="sgd", max_iter=3000, tol=1e-6)
    np.testing.assert_allclose(found.value, solve_cyclic(p, 1.0).value, atol=1e-9)
    assert bool(found.converged)
    np.testing.assert_allclose(jnp.sum(found.W**2, 1), 1, rtol=1e-9)
    frobenius = LayerPeeledProblem(problem.targets)
    whole = solve_factored(keys[0], frobenius, 8, method="sgd", max_iter=3000, tol=1e-6)
    np.testing.assert_allclose(whole.value, found.value, atol=1e-8)
    assert float(circulant_defect(whole.W @ whole.W.T)) < 1e-4
    slow = solve_factored(keys[0], frobenius, 8, method="sgd", max_iter=3000, learning_rate=1e-3)
    assert not bool(slow.converged)
    # One dimension cannot carry what the optimum needs, and the gap says so.
    one = solve_factored(keys[0], frobenius, 1, method="sgd", max_iter=300)
    assert (one.W.shape, one.H.shape) == ((7, 1), (1, 7))
    assert float(one.gap) >= float(one.value - whole.value) > 1e-2


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_project_to_ball_keeps_parameters_in_their_balls(scale):
    params = {
        "head": scale * jnp.asarray([[3.0, 4.0], [0.0, 0.5]], jnp.float32),
        "bias": scale * jnp.ones(2, jnp.float32),
    }
    updates = {"head": scale * jnp.full((2, 2), 3.0, jnp.float32), "bias": jnp.zeros(2, jnp.float32)}
    tx = project_to_ball({"head": 2 * scale, "bias": jnp.inf})
    steps, _ = tx.update(updates, tx.init(params), params)
    moved = optax.apply_updates(params, steps)
    free = np.asarray(params["head"], float) / scale + 3.0
    np.testing.assert_allclose(moved["head"] / scale, 2 * free / np.linalg.norm(free), rtol=1e-5)
    assert np.array_equal(moved["bias"], params["bias"])
    rows = project_to_ball(scale, axis={"head": 1, "bias": 0})
    steps, _ = rows.update(updates, rows.init(params), params)
    lengths = np.linalg.norm(np.asarray(optax.apply_updates(params, steps)["head"], float) / scale, axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


def test_project_to_ball_inside_changes_nothing_and_zero_radius_ends_at_zero():
    w = jnp.asarray([0.1, 0.2])
    tx = optax.chain(optax.sgd(0.1), project_to_ball(1.0))
    updates, _ = tx.update(w, tx.init(w), w)
    np.testing.assert_allclose(updates, -0.1 * w, atol=1e-17)
    point = project_to_ball(0.0)
    updates, _ = point.update(w, point.init(w), w)
    np.testing.assert_array_equal(w + updates, 0)


def test_a_given_start_is_used_and_padding_stays_zero(keys):
    p = geometric_kernel(7, 1.0)
    problem = LayerPeeledProblem(circulant(p), budget_W=0.25, budget_H=1.0)
    optimum = solve_factored(keys[0], problem, 3, tol=1e-13)
    again = solve_factored(keys[1], problem, 3, init=(optimum.W, optimum.H))
    assert int(again.iterations) < int(optimum.iterations)
    np.testing.assert_allclose(again.value, optimum.value, atol=1e-10)
    narrow = jax.random.normal(keys[2], (7, 3)), jax.random.normal(keys[3], (3, 7))
    wide = jnp.pad(narrow[0], ((0, 0), (0, 2))), jnp.pad(narrow[1], ((0, 2), (0, 0)))
    for method in ("lbfgs", "sgd"):
        padded = solve_factored(keys[0], problem, 5, method=method, init=wide)
        assert not np.any(padded.W[:, 3:])
        assert not np.any(padded.H[3:])
        alone = solve_factored(keys[0], problem, 3, method=method, init=narrow)
        np.testing.assert_allclose(padded.value, alone.value, atol=1e-9)
    nothing = solve_factored(keys[0], LayerPeeledProblem(problem.targets, budget_W=0.0), 3, init=narrow)
    np.testing.assert_allclose(nothing.value, np.log(7), rtol=1e-14)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ((np.ones((7, 2)), np.ones((3, 7))), r"\(7, 2\) and \(3, 7\); expected \(7, 3\)"),
        ((np.zeros((7, 3)), np.zeros((3, 7))), "saddle"),
        ((np.full((7, 3), np.nan), np.ones((3, 7))), "not finite"),
    ],
)
def test_a_start_that_cannot_be_used_is_refused(keys, init, message):
    problem = LayerPeeledProblem(circulant(geometric_kernel(7, 1.0)))
    with pytest.raises(ValueError, match=message):
        solve_factored(keys[0], problem, 3, init=init)


def test_a_run_that_overflows_returns_its_last_finite_point():
    """From 4e10 the logits grow to 4e30, whose squares are beyond float32."""
    problem = LayerPeeledProblem(jnp.eye(4, dtype=jnp.float32), budget_W=1e30)
    found = solve_factored(jax.random.key(0), problem, 3, max_iter=30, init_scale=1e-10)
    assert not found.converged
    assert int(found.iterations) < 30
    assert bool(jnp.isfinite(found.W).all() & jnp.isfinite(found.H).all())
    logits = np.asarray(found.W, float) @ np.asarray(found.H, float)
    top = logits.max(0)
    value = np.mean(top + np.log(np.exp(logits - top).sum(0)) - np.diag(logits))
    np.testing.assert_allclose(found.value, value, rtol=1e-5)


@pytest.mark.parametrize(("method", "compiled"), [("lbfgs", _lbfgs), ("sgd", _sgd)])
def test_another_scale_of_the_start_does_not_recompile(keys, method, compiled):
    problem = LayerPeeledProblem(circulant(geometric_kernel(4, 1.0)))
    first = solve_factored(keys[0], problem, 2, method=method, max_iter=3, init_scale=0.5)
    size = compiled._cached._cache_size()
    second = solve_factored(keys[0], problem, 2, method=method, max_iter=3, init_scale=0.25)
    assert compiled._cached._cache_size() == size
    assert float(jnp.max(jnp.abs(first.W - second.W))) > 1e-3

"""Memories of bounded rank, against grids over all memories of rank one, quadratic programs, and NumPy's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from jaxspec.memory import Associations, fit_two_layer, fit_two_layer_adam, margins, sample_associations, theory
from jaxspec.memory.two_layer import _fitted

KEY = jax.random.key(0)
STEPS = 1440


def constraints(a):
    """Rows ``(y_mu - y_nu) x_mu^T`` by definition, float64."""
    x, y = (np.asarray(v, float) for v in (a.x, a.y))
    p = len(x)
    others = y if a.competitors is None else np.asarray(a.competitors, float)
    rival = lambda mu, nu: others[nu] if others.ndim == 2 else others[mu, nu]  # noqa: E731
    return np.stack([np.outer(y[mu] - rival(mu, nu), x[mu]) for mu in range(p) for nu in range(p) if mu != nu])


def largest_margin(a):
    """d times the distance of the origin to the hull of the constraints."""
    rows = constraints(a)
    rows = rows.reshape(len(rows), -1)
    x = nnls(np.vstack([rows.T, np.ones(len(rows))]), np.append(np.zeros(rows.shape[1]), 1.0))[0]
    return len(a.x[0]) * np.linalg.norm(rows.T @ x / x.sum())


def largest_margin_of_rank_one(a, steps=STEPS):
    """The same over ``W = u v^T`` in two dimensions, on a grid of both angles."""
    angle = np.arange(steps) * 2 * np.pi / steps
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    values = np.einsum("ui,kij,vj->kuv", circle, constraints(a), circle[: steps // 2])
    return 2 * values.min(axis=0).max()


def bound(found, a, width):
    """Ky Fan bound of the multipliers, float64."""
    p = len(a.x)
    weights = np.asarray(found.multipliers, float)[~np.eye(p, dtype=bool)]
    assert (weights >= 0).all()
    G = np.tensordot(weights, constraints(a), 1)
    s = np.linalg.svd(G, compute_uv=False)
    return a.x.shape[1] * np.sqrt(np.sum(s[:width] ** 2)) / weights.sum()


@pytest.fixture(scope="module")
def solved():
    """Draws of two pairs in two dimensions with memories of rank one, which cannot recall a third."""
    draws = [sample_associations(jax.random.key(seed), 2, 2, embedding="sphere") for seed in range(6)]
    one = [fit_two_layer(KEY, a, 1, num_starts=6, gap_tol=1e-4) for a in draws]
    return draws, one


def test_rank_one_is_that_of_the_grid(solved):
    draws, one = solved
    for a, found in zip(draws, one, strict=True):
        best = largest_margin_of_rank_one(a)
        assert best > 1e-3
        assert bool(found.feasible)
        # The grid is half a step off in both angles, and |d (y_mu - y_nu) x_mu^T| <= 4.
        assert best - 1e-3 < float(found.margin) < best + 8 * np.pi / STEPS
        assert float(found.upper) >= best * (1 - 1e-5)


def test_factors_multipliers_and_bounds_are_what_they_say(solved):
    draws, one = solved
    for a, found in zip(draws, one, strict=True):
        W = found.B @ found.A
        assert found.A.shape == (1, 2)
        assert found.B.shape == (2, 1)
        assert float(jnp.linalg.norm(W)) == pytest.approx(2, rel=1e-5)
        assert float(found.margin) == pytest.approx(float(margins(W, a).min()), abs=1e-5)
        assert float(found.upper) == pytest.approx(bound(found, a, 1), rel=1e-4)
        closed = float(found.upper - found.margin) <= 1e-4 * float(found.upper)
        assert bool(found.optimal) == closed


@pytest.fixture(scope="module")
def wide():
    draws = [
        sample_associations(jax.random.key(3), 10, 5, model=model, embedding="sphere")
        for model in ("original", "decoupled")
    ]
    return draws, [fit_two_layer(KEY, a, 5) for a in draws]


def test_full_width_is_the_convex_optimum(wide):
    for a, found in zip(*wide, strict=True):
        best = largest_margin(a)
        assert best > 0.05
        assert float(found.margin) == pytest.approx(best, rel=2e-3)
        assert best <= float(found.upper) * (1 + 1e-5)
        assert bool(found.optimal)


def test_more_width_than_dimension_buys_nothing(wide):
    (a, _), (found, _) = wide
    wider = fit_two_layer(KEY, a, 7)
    assert wider.A.shape == (7, 5)
    np.testing.assert_allclose(wider.B @ wider.A, found.B @ found.A, atol=1e-4)
    np.testing.assert_array_equal(wider.A[5:], 0)


def test_one_unit_less_than_pairs_is_certified_optimal_and_two_less_cost_margin(x64):
    """The widest memory lies in the span of the p - 1 differences of values."""
    a = sample_associations(jax.random.key(5), 5, 8, embedding="sphere")
    found, narrower = (fit_two_layer(KEY, a, width) for width in (4, 3))
    assert bool(found.optimal)
    assert float(found.margin) == pytest.approx(largest_margin(a), rel=2e-3)
    for width, one in ((4, found), (3, narrower)):
        assert float(one.upper) == pytest.approx(bound(one, a, width), rel=1e-9)
        assert np.linalg.matrix_rank(np.asarray(one.B @ one.A)) == width
    assert 0 < float(narrower.margin) < 0.99 * float(found.margin)
    assert float(narrower.margin) <= float(narrower.upper) < float(found.upper)


@pytest.mark.parametrize("scale", [1e-15, 1e12])
def test_margins_scale_with_keys_and_values(wide, scale):
    (a, _), (found, _) = wide
    got = fit_two_layer(KEY, Associations(a.x * scale, a.y), 5)
    assert float(got.margin) == pytest.approx(scale * float(found.margin), rel=2e-3)
    assert bool(got.feasible)


def test_leading_pairs_count_alone_and_new_numbers_do_not_compile_again(wide):
    (a, _), (found, _) = wide
    longer = Associations(*(jnp.concatenate([v, 2 * v[::-1]]) for v in a[:2]))
    short = fit_two_layer(KEY, longer, 5, n=10)
    assert float(short.margin) == pytest.approx(float(found.margin), rel=2e-3)
    np.testing.assert_array_equal(np.asarray(short.multipliers)[10:], 0)
    compiled = _fitted._cache_size()
    assert not bool(fit_two_layer(jax.random.key(9), longer, 5, n=20, gap_tol=1e-2).feasible)
    assert _fitted._cache_size() == compiled


def test_pairs_that_no_memory_recalls_are_never_called_feasible():
    a = Associations(jnp.eye(3)[jnp.array([0, 0, 1])], jnp.eye(3))  # one key with two answers
    for found in (fit_two_layer(KEY, a, 2), fit_two_layer_adam(a, 2, steps=60)):
        assert not bool(found.feasible)
        assert float(found.margin) <= 0
        assert float(found.upper) >= -1e-6
    zero = fit_two_layer(KEY, Associations(jnp.zeros((3, 3)), jnp.eye(3)), 2)
    assert float(zero.margin) == 0
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(zero))


def test_adam_finds_what_is_easy_and_stays_below_the_optimum(wide):
    for a, found in zip(*wide, strict=True):
        adam = fit_two_layer_adam(a, 5, steps=600)
        assert bool(adam.feasible)
        assert 0.7 * float(found.margin) < float(adam.margin) <= float(found.upper) * (1 + 1e-5)
        assert float(adam.upper) == pytest.approx(bound(adam, a, 5), rel=1e-3)


def test_first_feasible_memory_without_outer_steps(wide):
    (a, _), (found, _) = wide
    first = fit_two_layer(KEY, a, 5, max_outer=0)
    assert bool(first.feasible)
    assert float(first.margin) < float(found.margin)
    assert int(first.iterations) < int(found.iterations)


def test_transformations(wide):
    (a, _), (found, _) = wide
    keys = jax.random.split(KEY, 2)
    batch = jax.vmap(lambda key, n: fit_two_layer(key, a, 5, n=n, max_outer=0))(keys, jnp.array([10, 6]))
    W = batch.B @ batch.A
    for n, margin, memory in zip((10, 6), batch.margin, W, strict=True):
        short = Associations(a.x[:n], a.y[:n])
        assert 0 < float(margin) == pytest.approx(float(margins(memory, short).min()), abs=1e-5)
    assert float(batch.margin[0]) < float(found.margin)


def test_numbers_that_are_not_finite():
    a = Associations(jnp.eye(3).at[0, 0].set(jnp.nan), jnp.eye(3))
    with pytest.raises(ValueError, match="x holds"):
        fit_two_layer(KEY, a, 2)
    for fit in (lambda a: fit_two_layer(KEY, a, 2, max_outer=0), lambda a: fit_two_layer_adam(a, 2, steps=3)):
        found = jax.jit(fit)(a)
        assert float(found.margin) == -np.inf
        assert float(found.upper) == np.inf
        assert not bool(found.feasible | found.optimal)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda a: fit_two_layer(KEY, a, 0), "width is 0"),
        (lambda a: fit_two_layer(KEY, a, 1, num_starts=0), "num_starts"),
        (lambda a: fit_two_layer(KEY, a, 1, max_outer=-1), "max_outer"),
        (lambda a: fit_two_layer(KEY, a, 1, max_newton=0), "max_newton"),
        (lambda a: fit_two_layer(KEY, a, 1, max_cg=0), "max_cg"),
        (lambda a: fit_two_layer(KEY, a, 1, gap_tol=-1.0), "gap_tol"),
        (lambda a: fit_two_layer(KEY, a, 1, n=4), "n is 4"),
        (lambda a: fit_two_layer(KEY, a._replace(y=a.y[:2]), 1), "y has shape"),
        (lambda a: fit_two_layer_adam(a, 0), "width is 0"),
        (lambda a: fit_two_layer_adam(a, 1, steps=0), "steps is 0"),
        (lambda a: fit_two_layer_adam(a, 1, learning_rate=-1.0), "learning_rate"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call(Associations(jnp.eye(3), jnp.eye(3)))


def test_the_margin_of_the_theory_falls_with_the_width():
    narrow, wide = theory.margin(43, 20, [5, 30])
    assert 0 < narrow < wide == theory.margin(43, 20)
    # On the critical line of its own width a margin is the one it was asked for.
    assert theory.margin(theory.critical_p(20, 0.7, 5), 20, 5) == pytest.approx(0.7, rel=1e-6)
    with pytest.raises(ValueError, match="width"):
        theory.margin(43, 20, 0)

"""The largest margin against non-negative least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.memory import Associations, margins, max_margin, sample_associations
from tests.memory.problems import largest_margin, rows, weyl

P, D = 14, 5


def draw(seed, model="original", embedding="gaussian"):
    return sample_associations(jax.random.key(seed), P, D, model=model, embedding=embedding)


@pytest.mark.parametrize(("model", "embedding"), [("original", "gaussian"), ("decoupled", "sphere")])
def test_margin_is_that_of_non_negative_least_squares(x64, model, embedding):
    for seed, n in ((0, 3), (1, 6), (2, 8), (3, 9)):
        a = draw(seed, model, embedding)
        found, exact = max_margin(a, n=n), largest_margin(a, n)
        assert bool(found.converged)
        assert int(found.status) == 1
        assert float(found.lower) <= exact * (1 + 1e-9)
        assert float(found.upper) >= exact * (1 - 1e-9)
        assert 0 <= float(found.gap) <= 1e-3
        # What the fields say, by definition.
        A, W = rows(a, n), np.asarray(found.W)
        np.testing.assert_allclose(np.linalg.norm(W), D, rtol=1e-12)
        np.testing.assert_allclose(np.min(A @ W.ravel()), found.lower, rtol=1e-9)
        weights = np.asarray(found.multipliers)[:n, :n][~np.eye(n, dtype=bool)]
        assert np.all(weights >= 0)
        np.testing.assert_allclose(D * np.linalg.norm(A.T @ weights) / weights.sum(), found.upper, rtol=1e-9)


def test_weyl_data(x64):
    for (p, d), kappa in {(3, 2): 0.046551, (10, 4): 0.007369, (12, 5): 0.000674}.items():
        found = max_margin(weyl(p, d))
        assert bool(found.converged)
        np.testing.assert_allclose(found.lower, kappa, rtol=1e-3, atol=5e-7)
        np.testing.assert_allclose(found.upper, kappa, rtol=1e-3, atol=5e-7)
    infeasible = max_margin(weyl(4, 2))
    assert (int(infeasible.status), float(infeasible.lower)) == (-1, 0.0)
    np.testing.assert_array_equal(infeasible.W, 0)
    assert float(infeasible.upper) < 1e-5


def test_single_precision_units_and_order():
    a = draw(5)
    found, exact = max_margin(a, n=6), largest_margin(a, 6)
    assert bool(found.converged)
    assert float(found.lower) <= exact * (1 + 1e-4)
    assert float(found.upper) >= exact * (1 - 1e-4)
    np.testing.assert_allclose(margins(found.W, Associations(a.x[:6], a.y[:6])).min(), found.lower, rtol=1e-4)
    large = max_margin(Associations(a.x * 1e15, a.y * 1e-20), n=6)
    np.testing.assert_allclose(large.upper, found.upper * 1e-5, rtol=2e-3)
    order = np.r_[np.arange(6)[::-1], np.arange(6, P)]
    np.testing.assert_allclose(max_margin(Associations(a.x[order], a.y[order]), n=6).lower, found.lower, rtol=2e-3)


def test_lower_bound_falls_and_bounds_hold_at_the_caps():
    a = draw(6)
    short = max_margin(a, n=8, max_outer=1, max_newton=2)
    exact = largest_margin(a, 8)
    assert not bool(short.converged)
    assert float(short.lower) <= exact <= float(short.upper)
    assert float(short.gap) > 1e-3
    nothing = max_margin(a, n=8, max_outer=0)
    assert (int(nothing.status), float(nothing.lower), float(nothing.upper)) == (0, 0.0, np.inf)
    assert not bool(nothing.converged)


def test_conjugate_gradients_find_the_margin_of_the_factorisation(monkeypatch):
    from jaxspec.memory import margin

    a = draw(7)
    factorised = max_margin(a, n=7)
    monkeypatch.setattr(margin, "DIRECT", 0)
    jax.clear_caches()
    products = max_margin(a, n=7)
    jax.clear_caches()
    assert bool(products.converged)
    np.testing.assert_allclose(products.lower, factorised.lower, rtol=2e-3)


def test_batch_duplicates_and_numbers_that_are_not_finite():
    a = draw(8)
    batch = jax.tree.map(lambda *v: jnp.stack(v), a, a._replace(y=a.y.at[1].set(a.y[0])), a._replace(x=a.x * jnp.inf))
    many = jax.jit(jax.vmap(lambda a, n: max_margin(a, n=n), (0, 0)))
    found = many(batch, jnp.array([4, 4, 4]))
    assert found.status.tolist() == [1, -1, 0]
    assert found.converged.tolist() == [True, True, False]
    assert (float(found.lower[2]), float(found.upper[2])) == (-np.inf, np.inf)
    assert not any(np.any(np.isnan(v)) for v in found[:6])
    np.testing.assert_allclose(found.lower[0], max_margin(a, n=4).lower, rtol=2e-3)
    many(batch, jnp.array([3, 5, 6]))
    assert many._cache_size() == 1


@pytest.mark.parametrize(
    ("options", "name"), [({"gap_tol": -1}, "gap_tol"), ({"tol": -1}, "tol"), ({"n": 0}, "n is 0")]
)
def test_bad_options_are_named(options, name):
    with pytest.raises(ValueError, match=name):
        max_margin(draw(0), **options)

"""Bulk laws with extensive outputs against their simulation, closed forms and the specification's values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.dmft import FrozenConfig, extensive_frozen, extensive_modes, generalized_mp, marchenko_pastur


def config(nu, sigma2_v=1.0, outputs=1.0):
    return FrozenConfig(nu, outputs, 1.5, 0.1, 0.5, sigma2_v)


@jax.jit
def edge(nu, sigma2_v, t):
    return extensive_frozen(config(nu, sigma2_v), t).edge


def test_edges_of_the_specification():
    nus = jnp.array([0.5, 1.0, 2.0, 4.0])
    for sigma2_v, expected in [(1.0, [2.4024, 2.8068, 3.0036, 3.0569]), (0.5, [2.5901, 2.9205, 3.1332, 3.2627])]:
        found = [edge(nu, sigma2_v, 30) for nu in nus]
        np.testing.assert_allclose(found, expected, rtol=2e-5)
    # Before training the law is Marchenko and Pastur's.
    np.testing.assert_allclose(edge(2.0, 1.0, 0), np.sqrt(0.5 / 2) * (1 + np.sqrt(2.0)), rtol=1e-8)


@pytest.mark.parametrize("nu", [0.5, 2.0])
def test_bulk_of_a_frozen_readout_is_that_of_a_simulation(nu):
    dim, t = 240, 10
    bulk = extensive_frozen(config(nu), t, nodes=60)
    grid = jnp.linspace(1e-3, bulk.edge, 600)
    density, _ = generalized_mp(grid, bulk.population, bulk.weights, nu)
    mass = np.trapezoid(density, grid)
    assert mass == pytest.approx(min(nu, 1), abs=5e-3)
    rng, width = np.random.default_rng(0), int(nu * dim)
    v = rng.normal(size=(dim, width)) / np.sqrt(width)
    w = rng.normal(size=(width, dim)) * np.sqrt(0.5 / width)
    target = 1.5 * rng.normal(size=(dim, dim)) / np.sqrt(dim)
    for _ in range(t):
        w += 0.1 * v.T @ (target - v @ w)
    s = np.sort(np.linalg.svd(w, compute_uv=False))
    law = np.interp(s, grid, np.cumsum(density) * (grid[1] - grid[0]) / mass)
    assert np.max(np.abs(law - (np.arange(len(s)) + 0.5) / len(s))) < 0.03
    assert abs(s[-1] / bulk.edge - 1) < 0.025


def test_the_law_of_a_white_population_is_marchenko_pastur():
    grid, one = jnp.linspace(0.05, 2.6, 40), jnp.ones(1)
    for nu in (0.4, 1.0, 2.0):
        density, top = generalized_mp(grid, one, one, nu)
        # Marchenko and Pastur's variance is per right dimension, as here; mass 1 for what has mass min(nu, 1).
        expected, edges = marchenko_pastur(grid, nu)
        assert top == pytest.approx(float(edges[1]), rel=1e-8)
        away = np.min(np.abs(np.asarray(grid)[:, None] - np.asarray(edges)), axis=1) > 0.02
        np.testing.assert_allclose(density[away], min(nu, 1) * expected[away], atol=2e-4)


def test_modes_are_those_of_two_trained_layers():
    """Values of the specification, conservation at small steps, and one wide simulation."""
    found = extensive_modes(jnp.array([2.9367, 3.0]), 0.1, 30, 0.5, 0.5)
    np.testing.assert_allclose(found.singular_values[-1], [1.7205, 1.7385], atol=6e-5)
    np.testing.assert_allclose(found.aligned[-1], [2.9367, 3.0], atol=1e-3)
    slow = extensive_modes(jnp.array([1.0]), 1e-3, 2000, 0.5, 0.2)
    np.testing.assert_allclose(slow.singular_values[-1] ** 2 - slow.readout[-1] ** 2, 0.3, atol=1e-3)
    rng, dim, width = np.random.default_rng(0), 8, 20000
    u = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    b = np.linspace(0.0, 3.0, dim)
    w, v = (rng.normal(size=(width, dim)) * np.sqrt(0.5 / width) for _ in range(2))
    for _ in range(10):
        error = u * b @ u.T - v.T @ w
        w, v = w + 0.1 * v @ error, v + 0.1 * w @ error.T
    expected = np.sort(extensive_modes(jnp.asarray(b), 0.1, 10, 0.5, 0.5).singular_values[-1])
    np.testing.assert_allclose(np.linalg.svd(w, compute_uv=False)[::-1], expected, rtol=0.03)


def test_bad_input_is_named():
    good, one = config(1.0), jnp.ones(1)
    for call, message in [
        (lambda: config(0.0), "nu is 0"),
        (lambda: config(1.0, -1.0), "sigma2_v is -1"),
        (lambda: extensive_frozen(good, -1), "t is -1"),
        (lambda: extensive_frozen(good, 1, nodes=1), "nodes is 1"),
        (lambda: extensive_modes(one, 0.0, 3), "eta is 0"),
        (lambda: extensive_modes(-one, 0.1, 3), "b is"),
        (lambda: extensive_modes(one, 0.1, 0), "steps is 0"),
        (lambda: generalized_mp(one, -one, one, 1.0), "population is"),
        (lambda: generalized_mp(one, one, one, 0.0), "aspect is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()

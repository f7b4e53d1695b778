"""Regularised Muon: batches of experts, fallbacks, particles, relative floors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxspec.linalg import smoothed_polar, spectral_power
from jaxspec.optim import MatrixDims, regularized_muon

RNG = np.random.default_rng(0)


def one_update(tx, gradient, params=None):
    params = jax.tree.map(jnp.zeros_like, gradient) if params is None else params
    return tx.update(gradient, tx.init(params), params)[0]


def test_stacked_experts_are_mapped_one_by_one():
    g = jnp.asarray(RNG.standard_normal((3, 2, 4, 5)), jnp.float32)
    tx = regularized_muon(0.5, 0.1, beta=0.0)
    stacked = one_update(tx, g)
    each = jax.vmap(jax.vmap(lambda g: one_update(tx, g)))(g)
    np.testing.assert_allclose(stacked, each, atol=1e-6)
    np.testing.assert_allclose(stacked, -0.5 * smoothed_polar(g, 0.1), atol=1e-6)
    other = one_update(
        regularized_muon(0.5, 0.1, beta=0.0, dimension_numbers=MatrixDims(0, 1)), jnp.moveaxis(g, (2, 3), (0, 1))
    )
    np.testing.assert_allclose(jnp.moveaxis(other, (0, 1), (2, 3)), stacked, atol=1e-6)


def test_vectors_and_masked_leaves_go_to_the_fallback():
    g = {"w": jnp.eye(3), "head": jnp.eye(3), "b": jnp.ones(3)}
    mask = {"w": True, "head": False, "b": True}
    updates = one_update(regularized_muon(0.1, 1.0, beta=0.0, mask=mask, fallback=optax.sgd(1.0)), g)
    np.testing.assert_allclose(updates["w"], -0.1 * np.eye(3) / 2**0.5, atol=1e-6)
    np.testing.assert_allclose(updates["head"], -np.eye(3))
    np.testing.assert_allclose(updates["b"], -np.ones(3))
    adam = one_update(regularized_muon(0.1, 1.0, beta=0.0, mask=lambda p: mask), g)
    np.testing.assert_allclose(adam["b"], -0.1, atol=1e-5)


def test_particles_see_the_force_and_not_the_gradient():
    g = jnp.asarray(RNG.standard_normal((8, 3, 3)), jnp.float32) / 8
    ours = one_update(regularized_muon(1.0, 0.5, beta=0.0, particle_axis=0), g)
    np.testing.assert_allclose(ours, -smoothed_polar(8 * g, 0.5), atol=1e-6)


def test_relative_floors_decay_and_shape_factors():
    g = jnp.asarray(RNG.standard_normal((3, 5)), jnp.float32)
    relative = one_update(regularized_muon(1.0, 0.2, beta=0.0, eps_mode="relative"), g)
    floor = 0.2 * jnp.linalg.norm(g) / 3**0.5
    np.testing.assert_allclose(relative, -spectral_power(g, 0.5, eps=float(floor), scale=1.0, engine="svd"), atol=2e-3)
    tall = one_update(regularized_muon(1.0, 0.2, beta=0.0, shape_scale="keller", weight_decay=0.1), g, 10 * g)
    np.testing.assert_allclose(tall, -((5 / 3) ** 0.5) * smoothed_polar(g, 0.2) - g, atol=1e-5)


def test_bias_correction_and_nesterov():
    g = jnp.asarray(RNG.standard_normal((3, 3)), jnp.float32)
    warm = one_update(regularized_muon(1.0, 0.2, beta=0.9, bias_correction=True), g)
    np.testing.assert_allclose(warm, -smoothed_polar(g, 0.2), atol=1e-5)
    ahead = one_update(regularized_muon(1.0, 0.2, beta=0.9, nesterov=True), g)
    np.testing.assert_allclose(ahead, -smoothed_polar(0.19 * g, 0.2), atol=1e-5)


def test_a_non_finite_gradient_spoils_its_leaf_only():
    g = {"a": jnp.full((2, 3, 3), jnp.nan), "b": jnp.ones((2, 3, 3))}
    updates = one_update(regularized_muon(0.1, 0.2, gamma=1.0), g)
    assert np.isnan(updates["a"]).all()
    assert np.isfinite(updates["b"]).all()


def test_hyperparameters_can_be_traced():
    g = jnp.asarray(RNG.standard_normal((3, 3)), jnp.float32)
    rates, floors = jnp.array([0.1, 0.2]), jnp.array([0.3, 0.4])
    swept = jax.vmap(lambda lr, eps: one_update(regularized_muon(lr, eps, gamma=1.0), g))(rates, floors)
    expected = one_update(regularized_muon(0.2, 0.4, gamma=1.0), g)
    np.testing.assert_allclose(swept[1], expected, atol=1e-6)

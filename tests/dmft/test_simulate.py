"""Finite networks against the theory, which is their limit: two independent derivations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.dmft import LinearConfig, outliers, simulate_linear, simulate_mlp, solve_linear, solve_nonlinear


def agree(simulated, theory):
    """Four standard errors over seeds, and 2% for the width (the steep phase spreads most)."""
    simulated = np.asarray(simulated)
    error = simulated.std(axis=0, ddof=1) / np.sqrt(len(simulated))
    assert np.all(np.abs(simulated.mean(axis=0) - theory) < 4 * error + 0.02 * np.abs(theory))


def test_a_linear_network_follows_the_theory():
    eta, decay = jnp.linspace(0.12, 0.08, 10), jnp.linspace(0.0, 0.4, 10)
    cfg = LinearConfig(2, 1.0, 3.0, 3.0, eta, 0.5, 0.2, momentum=0.3, weight_decay=decay)
    theory = solve_linear(cfg, 10, ntk_times=(10,))
    # Eight networks are too few for a standard error: those of split(key(0), 8) lay ten of theirs from the mean of 64
    # others (train loss at t = 3: 0.2071 with spread 0.007; others 0.1834 with spread 0.034; theory 0.1814).
    keys = jax.random.split(jax.random.key(0), 32)

    def run(key):
        return simulate_linear(key, cfg, 120, 10, (10,), ntk=True, sweeps=12)

    found = jax.jit(jax.vmap(run))(keys)
    agree(found.test, theory.test)
    agree(found.train, theory.train)
    for layer, fields in enumerate(theory.layers):
        values = outliers(fields, None, 1).values
        np.testing.assert_allclose(np.mean(found.singular_values[:, 0, layer, :1], axis=0), values, rtol=0.04)
    agree(found.ntk_top, theory.ntk_top)


def test_one_pass_and_population_runs_follow_the_theory():
    for options in ({"batch_ratio": 1.0}, {}):
        cfg = LinearConfig(1, 1.0, None, 3.0, 0.08, 0.5, 0.2, **options)
        theory = solve_linear(cfg, 10)
        found = jax.jit(jax.vmap(lambda key, cfg=cfg: simulate_linear(key, cfg, 120, 10)))(
            jax.random.split(jax.random.key(1), 8)
        )
        agree(found.test, theory.test)
        if theory.train is None:
            np.testing.assert_array_equal(found.train, found.test)
        else:
            agree(found.train, theory.train)


def test_an_mlp_follows_the_theory():
    x, y = jax.random.normal(jax.random.key(3), (3, 8)), jnp.array([1.0, -1.0, 1.0])
    schedule = {"eta": jnp.linspace(0.6, 0.4, 8), "weight_decay": jnp.linspace(0.0, 0.2, 8)}
    options = {"depth": 2, "gamma0": 2.0, "steps": 8, "sigma_w": 0.8} | schedule
    theory = solve_nonlinear(jax.random.key(0), x @ x.T / 8, y, num_sites=2000, **options)

    def run(key):
        return simulate_mlp(key, x, y, width=160, record=(8,), top=1, sweeps=12, **options)

    found = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(4), 6))
    np.testing.assert_allclose(np.mean(found.f, axis=0), theory.f, atol=0.06)
    np.testing.assert_allclose(found.test[:, -1], np.mean((y - found.f[:, -1]) ** 2, axis=1) / 2, rtol=1e-6)
    values = outliers(theory.layers[0], None, 1).values
    np.testing.assert_allclose(np.mean(found.singular_values[:, 0, 0]), values[0], rtol=0.03)
    top = np.linalg.eigvalsh(theory.ntk[-1] / 3)[-1]
    np.testing.assert_allclose(np.mean(found.ntk_top), top, rtol=0.06)


def test_bad_input_is_named():
    cfg, x = LinearConfig(1, 1.0, None, 1.0, 0.1), jnp.ones((2, 3))
    mlp = {"width": 4, "depth": 1, "eta": 0.1, "gamma0": 1.0, "steps": 2}
    key = jax.random.key(0)
    for call, message in [
        (lambda: simulate_linear(key, cfg, 0, 3), "dimension is 0"),
        (lambda: simulate_linear(key, cfg, 5, 3, (2, 1)), "record is"),
        (lambda: simulate_linear(key, cfg, 5, 3, (4,)), "record is"),
        (lambda: simulate_linear(key, LinearConfig(1, 1.0, None, 1.0, 0.1, target_gram=jnp.eye(1)), 5, 3), "target"),
        (lambda: simulate_mlp(key, x, jnp.ones(3), **mlp), "x has shape"),
        (lambda: simulate_mlp(key, x, jnp.ones(2), **(mlp | {"eta": 0.0})), "eta is 0"),
        (lambda: simulate_mlp(key, x, jnp.ones(2), **(mlp | {"eta": jnp.ones(3)})), "eta has shape"),
        (lambda: simulate_mlp(key, x, jnp.ones(2), **(mlp | {"weight_decay": 10.0})), "weight_decay is 10"),
        (lambda: simulate_mlp(key, x, jnp.ones(2), **(mlp | {"width": 0})), "width is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()

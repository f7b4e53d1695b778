"""Error bars from small networks, on ensembles whose law is known and on networks of another size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.dmft import LinearConfig, finite_width, outliers, simulate_linear, solve_linear


def test_moments_scale_with_size():
    rng = np.random.default_rng(0)
    theory = jnp.array([1.0, 3.0, np.nan])
    # A statistic with mean 1 + 2/D and variance 9/D, in units of the theory.
    small = jnp.asarray(np.nan_to_num(theory, nan=1.0) * (1 + 2 / 50 + 3 / np.sqrt(50) * rng.normal(size=(40_000, 3))))
    bars = finite_width(theory, small, 50, 800)
    np.testing.assert_allclose(bars.deviation[:2], theory[:2] * 3 / np.sqrt(800), rtol=4 * float(bars.relative_error))
    assert np.all(np.abs(bars.shift - theory * 2 / 800)[:2] < 4 * bars.shift_error[:2])
    assert all(np.isnan(part[2]) for part in (bars.deviation, bars.shift, bars.shift_error))
    assert bars.relative_error == pytest.approx(1 / np.sqrt(2 * 39_999))


def test_small_networks_predict_the_scatter_of_larger_ones():
    cfg, time = LinearConfig(1, 1.0, None, 3.0, 0.1, 0.5), 16
    theory = outliers(solve_linear(cfg, time).layers[0], None, 1).values[0]

    def values(dimension, seed, count):
        keys = jax.random.split(jax.random.key(seed), count)
        run = jax.jit(jax.vmap(lambda key: simulate_linear(key, cfg, dimension, time, (time,), top=1, sweeps=12)))
        return run(keys).singular_values[:, 0, 0, 0]

    bars = finite_width(theory, values(40, 0, 64), 40, 120)
    found = values(120, 1, 48)
    ratio = float(jnp.std(found, ddof=1) / bars.deviation)
    error = float(jnp.hypot(bars.relative_error, 1 / np.sqrt(2 * 47)))
    assert abs(np.log(ratio)) < 3 * error
    away = abs(float(jnp.mean(found) - theory - bars.shift))
    assert away < 4 * np.hypot(float(jnp.std(found)) / np.sqrt(48), float(bars.shift_error))


def test_bad_input_is_named():
    for call, message in [
        (lambda: finite_width(jnp.ones(2), jnp.ones((1, 2)), 10, 20), "networks have shape"),
        (lambda: finite_width(jnp.ones(2), jnp.ones((4, 3)), 10, 20), "networks have shape"),
        (lambda: finite_width(jnp.ones(2), jnp.ones((4, 2)), 0, 20), "small is 0"),
        (lambda: finite_width(jnp.ones(2), jnp.ones((4, 2)), 10, -1), "size is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()

"""Measured spectra over the bulk, on random matrices with known spikes."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.dmft import overlay


def spectrum(rng, shape, sigma2, spikes=()):
    w = rng.normal(size=shape) * np.sqrt(sigma2 / shape[1])
    u, v = (np.linalg.qr(rng.normal(size=(side, max(len(spikes), 1))))[0] for side in shape)
    return jnp.asarray(np.linalg.svd(w + (u[:, : len(spikes)] * spikes) @ v[:, : len(spikes)].T, compute_uv=False))


@pytest.mark.parametrize("shape", [(300, 300), (400, 150), (150, 400)])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_spikes_are_counted_and_the_bulk_is_recovered(shape, scale):
    rng, sigma2 = np.random.default_rng(0), 0.7
    critical = np.sqrt(sigma2) * (shape[0] / shape[1]) ** 0.25
    values = scale * spectrum(rng, shape, sigma2, critical * np.array([3.0, 2.0, 0.5]))
    found = overlay(values, shape)
    assert found.count == 2  # a spike below the transition is inside the bulk
    np.testing.assert_array_equal(found.above, np.arange(len(values)) < 2)
    assert float(found.sigma2) == pytest.approx(sigma2 * scale**2, rel=0.03)
    assert found.distance < 0.03
    known = overlay(values, shape, sigma2 * scale**2)
    edges = scale * np.sqrt(sigma2) * np.abs([1 - np.sqrt(shape[0] / shape[1]), 1 + np.sqrt(shape[0] / shape[1])])
    np.testing.assert_allclose(known.edges, edges, rtol=1e-12, atol=1e-12 * scale)
    assert np.trapezoid(known.density, known.grid) == pytest.approx(1, abs=0.02)
    assert overlay(values, shape, 4 * sigma2 * scale**2).distance > 0.2  # another bulk


def test_false_alarms_come_at_their_rate():
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(200):
        alarms += int(overlay(spectrum(rng, (60, 40), 1.0), (60, 40), 1.0, pad=0.9793).count > 0)
    assert 2 <= alarms <= 22  # 5 % of 200, at finite size somewhat fewer; binomial, four deviations


def test_bad_input_is_named():
    good = jnp.ones(3)
    for call, message in [
        (lambda: overlay(good, (4, 5)), "singular_values have shape"),
        (lambda: overlay(-good, (3, 5)), "singular_values is"),
        (lambda: overlay(0 * good, (3, 5)), "median 0"),
        (lambda: overlay(good, (3, 5), 0.0), "sigma2 is 0"),
        (lambda: overlay(good, (3, 5), points=0), "points is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()

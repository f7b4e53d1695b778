import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.optimize import brentq

from jaxspec.prox import project_nuclear_ball, project_spectral_ball
from jaxspec.prox.balls import l1_shift

SHAPES = [(3, 8), (8, 3), (2, 4, 4)]
HILBERT = jnp.asarray(1 / (1 + np.arange(4)[:, None] + np.arange(3)), jnp.float32)
PROJECTIONS = [project_spectral_ball, project_nuclear_ball]


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def exact_nuclear(x, radius):
    """The threshold by bisection on the nuclear norm, matrix by matrix."""
    if x.ndim > 2:
        return np.stack([exact_nuclear(a, radius) for a in x])
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    if s.sum() <= radius:
        return x
    theta = brentq(lambda t: np.maximum(s - t, 0).sum() - radius, 0, s[0], xtol=1e-14)
    return (u * np.maximum(s - theta, 0)) @ vt


def test_hilbert_oracles():
    assert float(jnp.linalg.norm(project_spectral_ball(HILBERT, 0.5))) == pytest.approx(0.520150, abs=1e-6)
    s = np.linalg.svd(project_nuclear_ball(HILBERT, 1.0), compute_uv=False)
    np.testing.assert_allclose(s, [1, 0, 0], atol=1e-6)


@given(st.sampled_from(SHAPES), st.integers(-30, 30), st.sampled_from([0.1, 1.0, 3.0, 100.0]), st.integers(0, 5))
def test_projections_match_independent_oracles_at_every_scale(shape, exponent, radius, seed):
    scale, x = 10.0**exponent, random(shape, seed)
    a = jnp.asarray(x * scale, jnp.float32)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    spectral = (u * np.minimum(s, radius)[..., None, :]) @ vt
    ours = np.asarray(project_spectral_ball(a, radius * scale), np.float64) / scale
    np.testing.assert_allclose(ours, spectral, atol=1e-5)
    ours = np.asarray(project_nuclear_ball(a, radius * scale), np.float64) / scale
    np.testing.assert_allclose(ours, exact_nuclear(x, radius), atol=1e-5)


@pytest.mark.parametrize("project", PROJECTIONS)
@given(st.sampled_from(SHAPES), st.floats(0.05, 5.0), st.integers(0, 5))
def test_projection_is_feasible_idempotent_and_firmly_nonexpansive(project, shape, radius, seed):
    a, b = (jnp.asarray(random(shape, s), jnp.float32) for s in (seed, seed + 100))
    pa, pb = project(a, radius), project(b, radius)
    s = np.linalg.svd(np.asarray(pa, np.float64), compute_uv=False)
    norm = s[..., 0] if project is project_spectral_ball else s.sum(-1)
    assert np.all(norm <= radius * (1 + 1e-5))
    np.testing.assert_allclose(project(pa, radius), pa, atol=1e-5)
    assert float(jnp.sum((pa - pb) ** 2)) <= float(jnp.sum((pa - pb) * (a - b))) + 1e-4


@pytest.mark.parametrize("project", PROJECTIONS)
def test_special_radii_and_matrices(project):
    x = jnp.asarray(random((3, 4)), jnp.float32)
    assert not np.any(project(x, 0.0))
    np.testing.assert_allclose(project(x, np.inf), x, atol=1e-6)
    assert not np.any(project(jnp.zeros((3, 4)), 0.0))
    assert not np.any(project(jnp.zeros((3, 4)), 1.0))
    assert project(jnp.zeros((0, 4)), 1.0).shape == (0, 4)


@pytest.mark.parametrize("project", PROJECTIONS)
@pytest.mark.parametrize("method", ["gram", "qr", "svd"])
def test_engines_agree(x64, project, method):
    x = jnp.asarray(random((2, 6, 9)))
    np.testing.assert_allclose(project(x, 1.5, method=method), project(x, 1.5), atol=1e-10)


@pytest.mark.parametrize("project", PROJECTIONS)
def test_spectra_of_six_decades_stay_feasible_for_small_radii(project):
    u, v = np.linalg.qr(random((20, 20)))[0], np.linalg.qr(random((50, 20), 1))[0]
    x = jnp.asarray((u * np.logspace(0, -6, 20)) @ v.T, jnp.float32)
    for radius in (1e-2, 1e-4, 1e-6):
        s = np.linalg.svd(np.asarray(project(x, radius), np.float64), compute_uv=False)
        assert (s[0] if project is project_spectral_ball else s.sum()) <= radius * (1 + 1e-5)


@pytest.mark.parametrize("project", PROJECTIONS)
@pytest.mark.parametrize("radius", [0.7, 50.0])
def test_derivatives(x64, project, radius):
    x = jnp.asarray(random((2, 3, 4)))
    check_grads(jax.jit(project), (x, jnp.full(2, radius)), order=1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("project", PROJECTIONS)
def test_gradients_have_no_nan_at_degenerate_matrices(project):
    gradient = jax.jit(jax.grad(lambda x, r: jnp.sum(project(x, r)), argnums=(0, 1)))
    for x in (jnp.zeros((3, 4)), jnp.eye(3), jnp.ones((4, 2))):
        for radius in (0.0, 1.0):
            assert all(bool(jnp.all(jnp.isfinite(g))) for g in gradient(x, radius))


@pytest.mark.parametrize("project", PROJECTIONS)
def test_batches_half_precision_and_bad_arguments(project):
    x = jnp.asarray(random((2, 3, 4)), jnp.float32)
    radii = jnp.array([0.5, 2.0])
    np.testing.assert_allclose(jax.vmap(project)(x, radii), project(x, radii), atol=1e-6)
    for method in ("svd", "gram"):
        assert project(x.astype(jnp.bfloat16), 0.5, method=method).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="radius is -1"):
        project(x, -1.0)


@pytest.mark.parametrize("radius", [0.0, 1e-3, 2.0, 1e3])
def test_weighted_vectors_by_bisection(x64, radius):
    rng = np.random.default_rng(0)
    values, weights = -np.sort(-rng.exponential(size=9)), rng.choice([1.0, 2.0], 9)
    top, shift = l1_shift(jnp.asarray(values), jnp.asarray(radius), jnp.asarray(weights))
    norm = lambda threshold: np.sum(weights * np.maximum(values - threshold, 0))  # noqa: E731
    exact = brentq(lambda threshold: norm(threshold) - radius, 0, values[0], xtol=1e-15) if radius < 100 else 0
    np.testing.assert_allclose(jnp.maximum(values - top - shift, 0), np.maximum(values - exact, 0), atol=1e-14)
    plain = l1_shift(jnp.asarray(values), jnp.asarray(radius))
    np.testing.assert_array_equal(plain, l1_shift(jnp.asarray(values), jnp.asarray(radius), jnp.ones(9)))

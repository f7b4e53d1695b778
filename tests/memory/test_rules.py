"""The Hebbian rule, the pseudo-inverse and spectra, against NumPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from jaxspec.memory import Associations, hebbian, margins, pseudo_inverse, sample_associations, scores, spectrum, theory
from jaxspec.memory.spectra import _quarter_circle_cdf


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
@pytest.mark.parametrize("p", [4, 11])
def test_rules_are_those_of_numpy(p, scale):
    rng = np.random.default_rng(p)
    x, y = rng.standard_normal((2, p, 6)).astype(np.float32)
    a = Associations(jnp.asarray(x * np.float32(scale)), jnp.asarray(y))
    np.testing.assert_allclose(hebbian(a), y.T @ (x * np.float32(scale)), rtol=1e-5, atol=1e-5 * scale)
    expected = y.T.astype(float) @ np.linalg.pinv(x.T.astype(float)) / scale
    condition = np.linalg.cond(x)
    np.testing.assert_allclose(pseudo_inverse(a), expected, atol=5e-6 * condition * np.abs(expected).max())


def test_pseudo_inverse_of_repeated_keys_is_the_smallest_least_squares_solution(x64):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 5, 6))
    x[3] = x[1]
    x[4] = 0
    expected = np.linalg.lstsq(x, y, rcond=None)[0].T
    np.testing.assert_allclose(pseudo_inverse(Associations(jnp.asarray(x), jnp.asarray(y))), expected, atol=1e-12)


def test_pseudo_inverse_interpolates_up_to_d_pairs(x64):
    a = sample_associations(jax.random.key(0), 6, 6)
    np.testing.assert_allclose(a.x @ pseudo_inverse(a).T, a.y, atol=1e-10)
    # Values are then the scores' own: on the sphere each is nearest to itself.
    b = sample_associations(jax.random.key(1), 8, 8, embedding="sphere")
    assert np.all(np.asarray(margins(pseudo_inverse(b), b)) > 0)


@pytest.mark.parametrize(("model", "embedding"), [("original", "gaussian"), ("decoupled", "sphere")])
def test_hebbian_scores_have_the_variances_of_their_theory(model, embedding):
    """Leading order in 1/d: 7% beside the spread of 100 draws."""
    p, d = 100, 40

    def moments(key):
        a = sample_associations(key, p, d, model=model, embedding=embedding)
        W = hebbian(a)
        correct, others = (s * d / jnp.linalg.norm(W) for s in scores(W, a))
        return correct.mean(), jnp.mean(correct**2), jnp.sum(jnp.where(jnp.eye(p), 0, others) ** 2) / (p * (p - 1))

    mean, square, competitor = np.mean(jax.lax.map(jax.jit(moments), jax.random.split(jax.random.key(11), 100)), 1)
    np.testing.assert_allclose(mean, d / np.sqrt(p), rtol=0.07)
    np.testing.assert_allclose(square - mean**2, 1 + 4 * d / p if embedding == "gaussian" else 1, rtol=0.07)
    np.testing.assert_allclose(competitor, 1 + (2 if model == "original" else 1) * d / p, rtol=0.07)


def test_spectrum_of_a_gaussian_matrix_is_the_quarter_circle():
    W = np.random.default_rng(0).standard_normal((150, 150)).astype(np.float32)
    got = spectrum(jnp.asarray(W))
    s = np.linalg.svd(W.astype(float), compute_uv=False)
    s = s * np.sqrt(150) / np.linalg.norm(W)
    np.testing.assert_allclose(got.s, s, atol=1e-5)
    np.testing.assert_allclose(got.m2, 1, rtol=1e-5)
    np.testing.assert_allclose(got.m4, np.mean(s**4), rtol=1e-5)
    assert abs(float(got.m4) - 2) < 0.05
    assert float(got.ks) < 0.02
    expected = kstest(s, lambda v: np.asarray(_quarter_circle_cdf(v))).statistic
    np.testing.assert_allclose(got.ks, expected, atol=1e-5)


def test_spectrum_has_no_scale():
    W = jax.random.normal(jax.random.key(0), (5, 5))
    expected = spectrum(W)
    for scale in (1e-30, 1e30):
        for got, value in zip(spectrum(W * scale), expected, strict=True):
            np.testing.assert_allclose(got, value, rtol=1e-5)
    zero = spectrum(jnp.zeros((3, 3)))
    np.testing.assert_array_equal(zero.s, 0)
    assert (float(zero.m2), float(zero.m4), float(zero.ks)) == (0, 0, 1)


def test_cdf_integrates_the_density(x64):
    s = np.linspace(0, 2, 2001)
    density = theory.quarter_circle(s)
    areas = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(s))])
    np.testing.assert_allclose(_quarter_circle_cdf(jnp.asarray(s)), areas, atol=1e-5)


@pytest.mark.parametrize(("W", "name"), [(jnp.ones((2, 3)), "W has shape"), (jnp.full((2, 2), jnp.nan), "W holds")])
def test_bad_memories_are_named(W, name):
    with pytest.raises(ValueError, match=name):
        spectrum(W)

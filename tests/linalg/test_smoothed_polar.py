"""The smoothed polar factor and its potential against NumPy in float64, at every engine, scale and degeneracy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxspec.linalg import (
    smoothed_nuclear_norm,
    smoothed_nuclear_norm_conjugate,
    smoothed_polar,
    smoothed_polar_inverse,
    spectral_power,
)
from jaxspec.linalg.smoothed_polar import polar_and_norm

ENGINES = ("auto", "svd", "gram_eigh", "gram_ns", "aug_ns")
P = np.array([[1.0, 2], [3, 4], [5, 6]])


def matrix(rng, m, n, s):
    """Known singular values ``s``."""
    r = len(s)
    u, v = (np.linalg.qr(rng.standard_normal((k, r)))[0] for k in (m, n))
    return u, np.asarray(s), v


def reference(u, s, v, eps):
    h = np.hypot(s, eps)
    return (u * (s / h)) @ v.T, np.sum(s / (h + eps) * s)


@pytest.mark.parametrize("engine", [*ENGINES, "closed"])
def test_the_numbers_of_a_small_matrix(x64, engine):
    y, value = polar_and_norm(jnp.asarray(P), 0.5, engine=engine)
    expected = [[-0.35496361, 0.57265995], [0.18919441, 0.51827729], [0.73335242, 0.46389463]]
    np.testing.assert_allclose(y, expected, atol=1e-8)
    np.testing.assert_allclose(value, 9.2559218105, atol=1e-10)
    np.testing.assert_allclose(smoothed_nuclear_norm_conjugate(y, 0.5), 0.6252567729, atol=1e-10)
    np.testing.assert_allclose(smoothed_polar_inverse(y, 0.5), P, rtol=1e-12)


def test_known_values(x64):
    norm = smoothed_nuclear_norm
    np.testing.assert_allclose(norm(jnp.diag(jnp.array([3.0, 4.0])), 1.0), 10**0.5 + 17**0.5 - 2, rtol=1e-14)
    np.testing.assert_allclose(norm(jnp.array([[3.0, 4.0]]), 12.0), 1.0, rtol=1e-14)
    assert norm(jnp.zeros((3, 2)), 1e-5) == 0
    assert not np.any(smoothed_polar(jnp.zeros((2, 3, 2)), 1e-5))


# Errors of the Gram forms grow with (s_1/eps)^2, of the others with s_1/eps.
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_accuracy_follows_the_conditioning(x64, engine, dtype):
    u, s, v = matrix(np.random.default_rng(0), 24, 12, np.logspace(0, -6, 12))
    unit = float(np.finfo(dtype).eps)
    for eps in (1.0, 1e-1, 1e-2, 1e-3):
        expected, value = reference(u, s, v, eps)
        loss = 1 / eps**2 if engine.startswith("gram") and eps > unit**0.5 * 100 else 1 / eps
        if engine.startswith("gram") and eps <= unit**0.5 * 100:
            continue
        y, found = polar_and_norm(jnp.asarray((u * s) @ v.T, dtype), eps, engine=engine)
        np.testing.assert_allclose(y, expected, atol=20 * unit * loss + (1e-6 if dtype == np.float32 else 0))
        np.testing.assert_allclose(found, value, rtol=20 * unit * loss + (2e-6 if dtype == np.float32 else 0))


def test_auto_is_accurate_where_the_gram_iteration_diverges():
    u, s, v = matrix(np.random.default_rng(1), 16, 8, np.logspace(0, -6, 8))
    x = jnp.asarray((u * s) @ v.T, jnp.float32)
    eps = 1e-5
    expected = reference(u, s, v, eps)[0]
    diverged = np.abs(np.asarray(smoothed_polar(x, eps, engine="gram_ns")) - expected).max()
    assert not diverged < 1
    for run in (smoothed_polar, jax.jit(smoothed_polar)):  # eps known, and traced
        np.testing.assert_allclose(run(x, eps), expected, atol=2e-3)
    mixed = jax.vmap(smoothed_polar)(jnp.stack([x, x]), jnp.array([eps, 0.5]))
    np.testing.assert_allclose(mixed[0], expected, atol=2e-3)
    np.testing.assert_allclose(mixed[1], reference(u, s, v, 0.5)[0], atol=1e-6)


@pytest.mark.parametrize("engine", ["auto", "gram_ns", "aug_ns"])
@pytest.mark.parametrize("max_cond", [3.0, 90.0, 5e3])
def test_a_promised_condition_gives_the_same_map(x64, engine, max_cond):
    u, s, v = matrix(np.random.default_rng(2), 6, 9, [1.0, 0.9, 1e-2, 1e-4])
    eps = np.linalg.norm(s) / max_cond * 1.2
    y = smoothed_polar(jnp.asarray((u * s) @ v.T), eps, engine=engine, max_cond=max_cond)
    np.testing.assert_allclose(y, reference(u, s, v, eps)[0], atol=1e-15 * max_cond**2 + 1e-14)


def test_a_broken_promise_is_found_when_checks_are_on():
    with jax.enable_checks(True), pytest.raises(RuntimeError, match="max_cond is 2"):
        jax.block_until_ready(smoothed_polar(jnp.eye(4), 1e-3, max_cond=2.0))


@given(
    shape=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    rank=st.integers(0, 8),
    exponent=st.sampled_from([-20, 0, 20]),
    ratio=st.sampled_from([1e-2, 0.3, 10.0]),
    repeated=st.booleans(),
    seed=st.integers(0, 99),
)
def test_properties_over_shapes_ranks_and_scales(shape, rank, exponent, ratio, repeated, seed):
    rng = np.random.default_rng(seed)
    r, rank = min(shape), min(rank, *shape)
    s = np.zeros(r)
    s[:rank] = 1.0 if repeated else np.sort(rng.uniform(0.1, 1, rank))[::-1]
    u, s, v = matrix(rng, *shape, s * 10.0**exponent)
    eps = np.float32(ratio * 10.0**exponent)
    x = jnp.asarray((u * s) @ v.T, jnp.float32)
    padded = jnp.zeros((8, 8)).at[: shape[0], : shape[1]].set(x)  # one compilation: zeros add singular values 0
    y, value = (np.asarray(out, np.float64) for out in polar_and_norm(padded, eps))
    np.testing.assert_array_equal(y[shape[0] :], 0)
    y = y[: shape[0], : shape[1]]
    expected, phi = reference(u, s, v, float(eps))
    tol = 5e-6 / min(ratio, 1)
    np.testing.assert_allclose(y, expected, atol=tol)
    nuclear, inner = s.sum(), np.sum(np.asarray(x, np.float64) * y)
    slack = tol * (nuclear + 1e-3 * float(eps))
    assert abs(value - phi) <= slack
    assert -slack <= nuclear - value <= r * eps + slack
    assert value <= np.sum(s**2) / (2 * eps) + slack
    assert value <= inner + slack
    assert np.linalg.norm(y, 2) < 1 + tol
    assert np.sum(y**2) <= inner / eps + 10 * tol
    # homogeneous of degree 0 and 1
    scaled, larger = polar_and_norm(4 * padded, 4 * eps)
    np.testing.assert_allclose(scaled[: shape[0], : shape[1]], y, atol=1e-6)
    np.testing.assert_allclose(larger, 4 * value, rtol=1e-5)


def test_equivariance_transposition_and_large_floors(x64):
    rng = np.random.default_rng(3)
    q, w = (np.linalg.qr(rng.standard_normal((k, k)))[0] for k in (5, 3))
    x = rng.standard_normal((5, 3))
    y = smoothed_polar(jnp.asarray(x), 0.3)
    np.testing.assert_allclose(smoothed_polar(jnp.asarray(q @ x @ w), 0.3), q @ y @ w, atol=1e-13)
    np.testing.assert_allclose(smoothed_polar(jnp.asarray(x.T), 0.3), y.T, atol=1e-14)
    np.testing.assert_allclose(1e6 * smoothed_polar(jnp.asarray(x), 1e6), x, rtol=1e-10)


def test_fenchel_young_gap_is_zero(x64):
    x = jnp.asarray(np.random.default_rng(4).standard_normal((7, 4, 3)))
    y, value = polar_and_norm(x, 0.2)
    conjugate = smoothed_nuclear_norm_conjugate(y, 0.2)
    np.testing.assert_allclose(value + conjugate, jnp.sum(x * y, axis=(-2, -1)), rtol=1e-12)
    other = smoothed_nuclear_norm_conjugate(0.9 * y, 0.2)  # any other point of the ball
    assert np.all(value + other >= jnp.sum(0.9 * x * y, axis=(-2, -1)))
    assert smoothed_nuclear_norm_conjugate(1.01 * jnp.eye(2), 0.2) == np.inf


def test_stacked_matrices_are_mapped_one_by_one(x64):
    x = jnp.asarray(np.random.default_rng(5).standard_normal((2, 4, 5, 3)))
    eps = jnp.array([[0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]])
    y = smoothed_polar(x, eps)
    np.testing.assert_allclose(y, jax.vmap(jax.vmap(smoothed_polar))(x, eps), atol=1e-14)
    np.testing.assert_allclose(y[1, 2], smoothed_polar(x[1, 2], 3.0), atol=1e-14)


@pytest.mark.parametrize("engine", ENGINES)
def test_bad_entries_spoil_their_own_matrix_only(engine):
    x = np.random.default_rng(6).standard_normal((3, 4, 3)).astype(np.float32)
    clean = smoothed_polar(jnp.asarray(x), 0.2, engine=engine)
    x[1, 0, 0], x[2, 0, 0] = np.nan, np.inf
    y = smoothed_polar(jnp.asarray(x), 0.2, engine=engine)
    np.testing.assert_allclose(y[0], clean[0], atol=1e-6)
    assert not np.isfinite(np.asarray(y[1:])).any()


def test_low_precision_is_computed_in_float32():
    x = np.random.default_rng(7).standard_normal((4, 6)).astype(np.float32)
    y = smoothed_polar(jnp.asarray(x, jnp.bfloat16), 0.1)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        y.astype(np.float32), smoothed_polar(jnp.asarray(x, jnp.bfloat16).astype(np.float32), 0.1), rtol=8e-3
    )
    assert smoothed_nuclear_norm(jnp.zeros((3, 0)), 0.1) == 0


def test_spectral_power_with_an_absolute_floor_is_the_same_map(x64):
    x = jnp.asarray(np.random.default_rng(8).standard_normal((3, 6, 4)))
    np.testing.assert_array_equal(spectral_power(x, 0.5, eps=0.1, scale=2.0), smoothed_polar(x, 0.2))
    np.testing.assert_allclose(
        spectral_power(x, 0.5, eps=0.1, scale=2.0, engine="svd"), smoothed_polar(x, 0.2), atol=1e-13
    )


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda x: smoothed_polar(x, 0.0),
            ValueError,
            "eps is 0.0; expected a number > 0: the hard polar is jaxspec.linalg.polar",
        ),
        (lambda x: smoothed_nuclear_norm(x, -1.0), ValueError, "eps is -1.0; expected a number > 0"),
        (lambda x: smoothed_polar_inverse(x, np.nan), ValueError, "eps is nan; expected a number > 0"),
        (lambda x: smoothed_polar(x, 1.0, engine="cubic"), ValueError, "engine is 'cubic'"),
        (lambda x: smoothed_polar(x, 1.0, engine="closed"), ValueError, "at most two"),
        (lambda x: smoothed_polar(x, 1.0, max_cond=0.5), ValueError, "max_cond is 0.5"),
        (lambda x: smoothed_polar(x.astype(int), 1.0), TypeError, "int"),
        (lambda x: smoothed_polar(x.astype(complex), 1.0), TypeError, "complex"),
        (lambda x: jax.block_until_ready(smoothed_polar_inverse(x, 1.0)), RuntimeError, "singular value >= 1"),
    ],
)
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call(jnp.eye(3))

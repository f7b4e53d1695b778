"""Dressed resolvent and outliers, against closed forms, quadrature and one explicit matrix."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxspec.dmft import (
    LinearConfig,
    SpikeFields,
    escape_margin,
    marchenko_pastur,
    outliers,
    resolvent,
    solve_linear,
)
from jaxspec.dmft.bulk import bath, bath_of_product

positive = st.floats(0.2, 4.0)
responses = st.floats(-1.0, 1.0)

compiled = jax.jit(outliers, static_argnames=("max_outliers", "dependent"))


@jax.jit
def compiled_resolvent(fields, sv):
    return resolvent(fields, sv)


def single(c_left, c_right, a, b, coeff, aspect, sigma2):
    arrays = (np.reshape(x, (1, 1)).astype(float) for x in (c_left, c_right, a, b))
    return SpikeFields(*map(jnp.asarray, arrays), jnp.array([float(coeff)]), jnp.array(aspect), jnp.array(sigma2))


def causal(rng, k, aspect, sigma2, scale=0.1):
    left, right = rng.normal(size=(2, k, 2 * k))
    a, b = scale * np.tril(rng.normal(size=(2, k, k)))
    return SpikeFields(
        jnp.asarray(left @ left.T / (2 * k)),
        jnp.asarray(right @ right.T / (2 * k)),
        jnp.asarray(a),
        jnp.asarray(np.tril(b, -1)),
        jnp.asarray(rng.uniform(0.5, 2.0, k)),
        jnp.array(aspect),
        jnp.array(sigma2),
    )


def coupling(fields):
    k = len(fields.coeff)
    m = np.diag(np.asarray(fields.coeff))
    return np.block([[np.zeros((k, k)), m], [m, np.zeros((k, k))]])


@given(positive, positive, positive, positive, responses, st.booleans(), positive)
def test_one_pair_has_the_closed_form(aspect, sigma2, c_left, c_right, response, backward, coeff):
    """``det(I - R K) = 1 - g1 g2 theta^2``."""
    a, b = (0.0, response) if backward else (response, 0.0)
    fields = single(c_left, c_right, a, b, coeff, aspect, sigma2)
    theta2 = coeff**2 * c_left * c_right + 2 * coeff * (a * c_left + b * c_right)
    edge = np.sqrt(sigma2) * (1 + np.sqrt(aspect))
    for sv in (1.01 * edge, 3 * edge):
        at = bath(sv, aspect, sigma2)
        found = np.linalg.det(np.eye(2) - np.asarray(compiled_resolvent(fields, sv)) @ coupling(fields))
        assert abs(found - (1 - at.left * at.right * theta2)) < 1e-12 * (1 + abs(theta2))
    value = compiled(fields, max_outliers=1).values[0]
    if theta2 > 1.0001 * sigma2 * np.sqrt(aspect):
        np.testing.assert_allclose(value**2, (theta2 + sigma2) * (theta2 + sigma2 * aspect) / theta2, rtol=1e-10)
    elif theta2 < 0.9999 * sigma2 * np.sqrt(aspect):
        assert np.isnan(value)


@pytest.mark.parametrize("theta", [0.7, 1.0, 1.2, 3.0])
def test_independent_spike_of_a_square_matrix(theta):
    found = compiled(single(1, 1, 0, 0, theta, 1.0, 1.0), max_outliers=1)
    if theta <= 1:
        assert np.isnan(found.values[0])
        assert np.isnan(np.asarray(found.overlaps_left)).all()
    else:
        np.testing.assert_allclose(found.values[0], theta + 1 / theta, rtol=1e-12)
        np.testing.assert_allclose(found.margin[0], theta - 1, atol=1e-12)


@pytest.mark.parametrize("aspect", [0.5, 2.0])
def test_independent_overlaps_are_those_of_benaych_georges_and_nadakuditi(aspect):
    theta = 1.9
    found = compiled(single(1, 1, 0, 0, theta, aspect, 1.0), max_outliers=1)
    np.testing.assert_allclose(found.values[0] ** 2, (1 + theta**2) * (aspect + theta**2) / theta**2, rtol=1e-12)
    left = 1 - aspect * (1 + theta**2) / (theta**2 * (theta**2 + aspect))
    right = 1 - (aspect + theta**2) / (theta**2 * (theta**2 + 1))
    np.testing.assert_allclose(found.overlaps_left[0, 0] ** 2, left, rtol=1e-10)
    np.testing.assert_allclose(found.overlaps_right[0, 0] ** 2, right, rtol=1e-10)


def test_nothing_escapes_without_updates():
    fields = causal(np.random.default_rng(0), 5, 0.7, 0.4)
    still = eqx.tree_at(lambda f: f.coeff, fields, 0 * fields.coeff)
    assert np.isnan(np.asarray(compiled(still).values)).all()
    assert np.isnan(np.asarray(compiled(fields, 0).values)).all()
    np.testing.assert_allclose(compiled(fields, 0).edge, np.sqrt(0.4) * (1 + np.sqrt(0.7)))
    bare = np.eye(10) - np.asarray(compiled_resolvent(fields, 2.0)) @ coupling(still)
    assert np.linalg.det(bare) == pytest.approx(1)


def test_the_resolvent_is_positive_and_falls():
    fields = solve_linear(LinearConfig(1, 0.7, 3.0, 2.0, 0.2, 0.4), 5).layers[0]
    edge = np.sqrt(0.4) * (1 + np.sqrt(0.7))
    steps = [np.asarray(compiled_resolvent(fields, edge * x)) for x in (1.01, 1.1, 1.5, 3.0)]
    for near, far in pairwise(steps):
        np.testing.assert_allclose(near, near.T, atol=1e-12)
        assert np.linalg.eigvalsh(far).min() > 0
        assert np.linalg.eigvalsh(near - far).min() > -1e-12


def test_outliers_are_roots_of_the_determinant_in_order():
    fields = causal(np.random.default_rng(2), 5, 0.7, 0.4)
    found = compiled(fields)
    values = np.asarray(found.values)
    escaped = values[np.isfinite(values)]
    assert len(escaped) >= 2
    assert np.all(np.diff(escaped) <= 0)
    np.testing.assert_array_equal(np.isfinite(values), np.asarray(found.margin) > 0)
    for sv in escaped:
        residual = np.eye(10) - np.asarray(compiled_resolvent(fields, sv)) @ coupling(fields)
        s = np.linalg.svd(residual, compute_uv=False)
        assert s[-1] < 1e-9 * s[0]


def test_truncation_by_a_traced_time_is_the_shorter_problem():
    fields = causal(np.random.default_rng(3), 6, 1.5, 0.5)
    late = jax.jit(jax.vmap(lambda t: outliers(fields, t, max_outliers=2)))(jnp.arange(7))
    for t in (5,):
        cut = (m[:t, :t] for m in (fields.C_left, fields.C_right, fields.A, fields.B))
        short = outliers(SpikeFields(*cut, fields.coeff[:t], fields.aspect, fields.sigma2), max_outliers=2)
        np.testing.assert_allclose(late.values[t], short.values, rtol=1e-10)
        np.testing.assert_allclose(late.overlaps_left[t, 0, :t] ** 2, short.overlaps_left[0] ** 2, atol=1e-9)
        np.testing.assert_allclose(escape_margin(fields, t), short.margin[0], rtol=1e-9, atol=1e-12)


def test_another_time_compiles_nothing():
    import sys

    program = sys.modules["jaxspec.dmft.outliers"]._outliers
    fields = causal(np.random.default_rng(3), 6, 1.5, 0.5)
    outliers(fields, 5, 2)
    before = program._cached._cache_size()
    late, early = outliers(fields, 6, 2), outliers(causal(np.random.default_rng(4), 6, 0.5, 0.7), 3, 2)
    assert program._cached._cache_size() == before
    assert late.values[0] != early.values[0]


def test_an_outlier_has_derivatives_in_both_modes(x64):
    def top(eta):
        return outliers(solve_linear(LinearConfig(1, 2.0, 3.0, 4.0, eta, 0.5, 0.2), 4).layers[0], None, 1).values[0]

    top = jax.jit(top)
    expected = (top(0.3 + 1e-5) - top(0.3 - 1e-5)) / 2e-5
    for mode in (jax.jacfwd, jax.grad):
        np.testing.assert_allclose(mode(top)(0.3), expected, rtol=1e-6)


def test_many_fields_are_compressed_without_a_trace():
    """Fields of 320 pairs (300 are kept) that span few directions, as those of small steps do."""
    rng, k, rank = np.random.default_rng(5), 320, 12
    left, right = rng.normal(size=(2, k, rank)) / np.sqrt(rank)
    a, b = 0.1 * np.tril(rng.normal(size=(2, k, k)), -1) / np.sqrt(k)
    coeff = rng.uniform(0.5, 2.0, k) / np.sqrt(k)
    fields = SpikeFields(
        *map(jnp.asarray, (left @ left.T, right @ right.T, a, b, coeff)), jnp.array(0.7), jnp.array(0.4)
    )
    found = outliers(fields, max_outliers=2)
    for sv in np.asarray(found.values):
        residual = np.eye(2 * k) - np.asarray(resolvent(fields, sv)) @ coupling(fields)
        s = np.linalg.svd(residual, compute_uv=False)
        assert s[-1] < 1e-9 * s[0]


def test_a_diverged_tail_does_not_touch_what_came_before():
    fields = causal(np.random.default_rng(4), 6, 1.0, 0.5)
    spoilt = jax.tree.map(lambda x: x.at[4:].set(jnp.inf) if jnp.ndim(x) else x, fields)
    np.testing.assert_allclose(outliers(spoilt, 4, 2).values, outliers(fields, 4, 2).values, rtol=1e-12)
    after = outliers(spoilt, 5, 2)
    assert np.isnan(np.asarray(after.values)).all()
    assert np.isnan(np.asarray(after.margin)).all()
    assert np.isfinite(after.edge)


@pytest.mark.parametrize(("aspect", "sigma2"), [(1.0, 1.0), (0.4, 0.5), (3.0, 2.0)])
def test_the_bath_integrates_the_bulk_law(aspect, sigma2):
    edges = np.asarray(marchenko_pastur(jnp.ones(1), aspect, sigma2)[1])
    np.testing.assert_allclose(edges, np.sqrt(sigma2) * np.abs([1 - np.sqrt(aspect), 1 + np.sqrt(aspect)]))
    grid = edges[0] + (edges[1] - edges[0]) * (1 - np.cos(np.linspace(0, np.pi, 4001))) / 2  # dense at both edges
    density = np.array(marchenko_pastur(jnp.asarray(grid), aspect, sigma2)[0])
    density[0] = density[1]  # a square matrix has its lower edge at 0, where the density is not 0
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-5)
    sv = 1.2 * edges[1]
    mean = np.trapezoid(density * sv / (sv**2 - grid**2), grid)
    small = min(aspect, 1.0)
    at = bath(sv, aspect, sigma2)
    # Per N1 (of which N2 min(r, 1) singular values are not the zeros of the tall side), then per N2.
    assert float(at.left) == pytest.approx((small * mean + (aspect - small) / sv) / aspect, rel=1e-5)
    assert float(at.right) == pytest.approx(small * mean + (1 - small) / sv, rel=1e-5)
    assert float(at.left * (sv - sigma2 * at.right)) == pytest.approx(1, rel=1e-12)
    edge = bath_of_product(1 / (sigma2 * np.sqrt(aspect)), aspect, sigma2)
    assert float(edge.sv) == pytest.approx(edges[1], rel=1e-12)
    step = 1e-6
    slopes = [(bath(sv + step, aspect, sigma2)[i] - bath(sv - step, aspect, sigma2)[i]) / (2 * step) for i in (1, 2)]
    np.testing.assert_allclose([at.left_slope, at.right_slope], slopes, rtol=1e-6)


def test_the_resolvent_of_one_explicit_matrix():
    """Two products either way with fields that depend on them; responses by Stein and the chain rule."""
    left, right, s2 = 1800, 1200, 0.7
    rng, ratio = np.random.default_rng(0), left / right
    w = rng.normal(size=(left, right)) * np.sqrt(s2 / right)
    p0 = rng.normal(size=right)
    h0 = w @ p0
    g0 = np.tanh(1.5 * h0) + 0.3
    z0 = w.T @ g0
    p1 = np.tanh(z0) + 0.5 * p0
    h1 = w @ p1
    g1 = np.tanh(h1) * h0
    b00 = s2 * ratio * np.mean(1.5 / np.cosh(1.5 * h0) ** 2)  # g0 on chi0 = h0
    a10 = s2 * np.mean(1 / np.cosh(z0) ** 2)  # p1 on xi0 = z0 - b00 p0
    slope = h0 / np.cosh(h1) ** 2  # of g1 in h1 = chi1 + a10 g0
    b10 = s2 * ratio * np.mean(np.tanh(h1) + slope * a10 * 1.5 / np.cosh(1.5 * h0) ** 2)
    b11 = s2 * ratio * np.mean(slope)
    g, f = np.stack([g0, g1], 1) / np.sqrt(left), np.stack([p0, p1], 1) / np.sqrt(right)
    a, b = np.array([[0, 0], [a10, 0]]) * np.sqrt(ratio), np.array([[b00, 0], [b10, b11]]) / np.sqrt(ratio)
    fields = SpikeFields(*map(jnp.asarray, (g.T @ g, f.T @ f, a, b)), jnp.ones(2), ratio, s2)
    sv = 1.15 * np.sqrt(s2) * (1 + np.sqrt(ratio))
    # (sv - H0)^{-1} by its Schur complement on the right side.
    inverse = np.linalg.inv(sv * np.eye(right) - w.T @ w / sv)
    gw = w.T @ g
    exact = np.block(
        [
            [g.T @ g / sv + gw.T @ inverse @ gw / sv**2, gw.T @ inverse @ f / sv],
            [f.T @ inverse @ gw / sv, f.T @ inverse @ f],
        ]
    )

    def error(found):
        return np.linalg.norm(np.asarray(found) - exact) / np.linalg.norm(exact)

    assert error(resolvent(fields, sv)) < 0.04
    assert error(resolvent(fields.independent(), sv)) > 0.2


def test_bad_input_is_named():
    fields = single(1, 1, 0, 0, 2.0, 1.0, 1.0)
    for call, message in [
        (lambda: outliers(fields, 2), "t is 2"),
        (lambda: outliers(fields, max_outliers=0), "max_outliers is 0"),
        (lambda: resolvent(fields, -1.0), "sv is -1"),
        (lambda: marchenko_pastur(jnp.ones(1), 0.0), "aspect is 0"),
        (lambda: marchenko_pastur(jnp.ones(1), 1.0, -1.0), "sigma2 is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert np.isnan(np.asarray(resolvent(fields, 1.0))).all()

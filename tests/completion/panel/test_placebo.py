"""Placebos where the answer is known, tests over units against their definitions, intervals by permutation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxspec.completion import (
    panel_effects,
    permutation_intervals,
    placebo_in_space,
    placebo_in_time,
    row_scaled_spectral,
    unit_tests,
)
from jaxspec.completion.panel import placebo
from jaxspec.completion.panel.design import influence
from jaxspec.completion.panel.student import inside, outside, two_sided_quantile


@pytest.fixture(scope="module")
def block():
    rng = np.random.default_rng(0)
    A0 = rng.standard_normal((16, 1)) @ (1 + rng.random((1, 14))) + 2
    D = np.zeros((16, 14), bool)
    D[4, 10:] = True
    return A0 + 0.05 * rng.standard_normal(A0.shape) + 1.5 * D, D


def test_placebo_in_space_is_a_loop_of_refits(x64, block):
    Y, D = block
    controls = [1, 2, 7]
    found = placebo_in_space(Y, D, 4, controls, rank=2, refine=3, start="one_step")
    for index, control in enumerate(controls):
        given = np.zeros((3, 14), bool)
        given[index] = D[4]
        fit = row_scaled_spectral(Y[controls], given, rank=2, refine=3)
        gap = (Y[control] - np.asarray(fit.A0)[index])[10:]
        np.testing.assert_allclose(found.att_placebo[index], gap.mean(), atol=1e-9)
        np.testing.assert_allclose(found.rmse[index], np.sqrt((gap**2).mean()), atol=1e-9)


def test_a_large_effect_has_the_smallest_p_value(x64, block):
    Y, D = block
    found = placebo_in_space(Y, D, 4, rank=2, refine=20)
    assert found.att_placebo.shape == (15,)
    assert abs(float(found.att) - 1.5) < 0.15
    np.testing.assert_allclose(found.p, 1 / 16)
    null = placebo_in_space(Y - 1.5 * D, D, 4, rank=2, refine=20)
    beyond = np.sum(np.abs(null.att_placebo) >= abs(float(null.att)))
    np.testing.assert_allclose(null.p, (1 + beyond) / 16)


def test_placebo_in_time_predicts_cells_it_has_not_seen(x64, block):
    Y, D = block
    D = D.copy()
    D[9, 7:], D[0] = True, False
    found = placebo_in_time(Y, D, 3, rank=2, refine=10)
    np.testing.assert_array_equal(found.count, [2, 2, 2])
    assert np.all(np.abs(found.effect) < 4 * np.asarray(found.se))
    assert np.all((np.asarray(found.se) > 0) & (np.asarray(found.se) < 0.3))
    hidden = Y.copy()
    hidden[4, 7:10] += 9.0
    hidden[9, 4:7] += 9.0
    moved = placebo_in_time(hidden, D, 3, rank=2, refine=10)
    np.testing.assert_allclose(moved.effect, np.asarray(found.effect) + 9, atol=1e-9)
    assert np.isnan(placebo_in_time(Y, D, 3, rank=2, refine=0).se).all()


def test_placebo_in_time_tells_what_it_could_not_find(x64, block, monkeypatch):
    Y, D = block
    with pytest.warns(UserWarning, match="the last of 1 sweeps moved the untreated arm"):
        placebo_in_time(Y + 20, D, 3, rank=2, refine=1)
    monkeypatch.setattr(placebo, "influence", partial(influence, max_iter=0))
    placebo._in_time._cached.clear_cache()
    with pytest.warns(UserWarning, match="standard errors in se are NaN"):
        found = placebo_in_time(Y, D, 3, rank=2)
    placebo._in_time._cached.clear_cache()
    assert np.isnan(found.se).all()
    assert np.isfinite(found.effect).all()


def test_student_against_scipy(x64):
    df = jnp.array([1.0, 2.5, 30, 1e6])
    for level in (0.5, 0.95, 0.9999):
        found = two_sided_quantile(jnp.full(4, level), df)
        np.testing.assert_allclose(found, stats.t.ppf((1 + level) / 2, df), rtol=1e-7)
    t = jnp.array([0.3, 1, 5, 30])
    np.testing.assert_allclose(outside(t, df), 2 * stats.t.sf(t, df), rtol=1e-8)
    np.testing.assert_allclose(inside(t, df), 1 - 2 * stats.t.sf(t, df), rtol=1e-8)
    assert np.isinf(two_sided_quantile(jnp.array([0.95]), jnp.array([0.5])))[0]


def test_tests_over_units_are_those_of_benjamini_and_hochberg(x64, make_panel):
    Y, D, _, _ = make_panel(0, 30, 24)
    D = D.copy()
    D[3] = False
    D[3, 0] = False
    with pytest.warns(UserWarning, match="1 of 30 units"):
        effects = panel_effects(Y, D, rank=1, start="one_step")
    known = np.arange(30) != 3
    tau, se, df = (np.asarray(x) for x in (effects.tau, effects.se, effects.df))
    p = 2 * stats.t.sf(np.abs((tau - 0.2) / se), df)
    for method in ("bh", "by"):
        found = unit_tests(effects, null=0.2, level=0.9, method=method)
        np.testing.assert_allclose(found.p_value[known], p[known], rtol=1e-7)
        expected = stats.false_discovery_control(p[known], method=method)
        np.testing.assert_allclose(found.adjusted_p_value[known], expected, rtol=1e-7)
        assert np.isnan([found.p_value[3], found.adjusted_p_value[3], found.low[3]]).all()
    half = stats.t.ppf(0.5 + 0.5 * 0.9 ** (1 / 29), df) * se
    np.testing.assert_allclose(found.low[known], (tau - half)[known], rtol=1e-7)
    np.testing.assert_allclose(found.high[known], (tau + half)[known], rtol=1e-7)


def test_permutation_intervals_by_hand(x64, block):
    Y, D = block
    fit = row_scaled_spectral(Y, D, rank=1, refine=10)
    found = jax.tree.map(np.asarray, permutation_intervals(fit, Y, D, level=0.8))
    assert np.flatnonzero(np.isfinite(found.estimate)).tolist() == [4]
    V, d, y = np.asarray(fit.right[0]), D[4].astype(float), Y[4]
    M = np.eye(14) - V @ np.linalg.pinv(V)

    def p(theta):
        e = M @ (y - theta * d)
        shifted = [abs(np.roll(d, s) @ e) for s in range(14)]
        return np.mean(np.array(shifted) >= shifted[0] - 1e-12)

    np.testing.assert_allclose(found.estimate[4], (d @ M @ y) / (d @ M @ d), rtol=1e-9)
    assert found.p_value[4] == pytest.approx(p(0.0))
    low, high = found.low[4], found.high[4]
    step = (high - low) / 50
    assert p(low + 1e-9) > 0.2 >= p(low - step)
    assert p(high - 1e-9) > 0.2 >= p(high + step)
    # Fourteen shifts cannot reject at 99%.
    wide = permutation_intervals(fit, Y, D, level=0.99)
    assert (float(wide.low[4]), float(wide.high[4])) == (-np.inf, np.inf)

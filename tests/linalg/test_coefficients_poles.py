import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxspec.linalg.coefficients import power_poles


def measured_error(c, delta, poles):
    x = np.geomspace(delta, 1, 20001)
    return np.abs(x**c * (np.array(poles.w) / (x[:, None] + np.array(poles.t))).sum(1) - 1).max()


def test_oracles():
    found = power_poles(2 / 3, 1e-4, 3)
    np.testing.assert_allclose(found.error, 2.494792e-2, rtol=1e-6)
    np.testing.assert_allclose(found.t, (7.457663e-5, 6.666757e-3, 4.395327e-1), rtol=1e-6)
    np.testing.assert_allclose(found.w, (0.073199, 0.209873, 0.998137), atol=1e-6)
    found = power_poles(0.5, 1e-2, 2)
    np.testing.assert_allclose(found.error, 1.890285e-2, rtol=1e-6)
    np.testing.assert_allclose(found.t, (0.011307, 0.884394), atol=1e-6)
    np.testing.assert_allclose(found.w, (0.172665, 1.527042), atol=1e-6)


@pytest.mark.parametrize(
    ("c", "kappa", "n", "error"),
    [
        (2 / 3, 1e1, 2, 1.7e-2),
        (2 / 3, 1e1, 3, 1.1e-3),
        (2 / 3, 1e1, 4, 7.8e-5),
        (2 / 3, 1e2, 4, 4.8e-3),
        (2 / 3, 1e2, 6, 1.8e-4),
        (2 / 3, 1e3, 6, 2.76e-3),
        (2 / 3, 1e3, 9, 7.8e-5),
        (2 / 3, 1e4, 8, 2.0e-3),
        (2 / 3, 1e4, 12, 4.9e-5),
        (1 / 2, 1e3, 6, 3.2e-3),
        (3 / 4, 1e2, 4, 3.9485e-3),
    ],
)
def test_minimax_errors_of_the_table(c, kappa, n, error):
    found = power_poles(c, kappa**-2, n)
    np.testing.assert_allclose(found.error, error, rtol=0.05)
    np.testing.assert_allclose(measured_error(c, kappa**-2, found), found.error, rtol=1e-4)
    assert min(found.t) > 0
    assert min(found.w) > 0


@given(st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9]), st.integers(2, 10), st.integers(1, 8))
def test_dual_exponents_share_error_and_reflect_poles(c, digits, n):
    delta = 10.0**-digits
    one, other = power_poles(c, delta, n), power_poles(1 - c, delta, n)
    np.testing.assert_allclose(one.error, other.error, rtol=1e-4, atol=1e-13)
    if one.error > 1e-7:  # nearer to rounding the poles are less determined than the error
        np.testing.assert_allclose(np.array(one.t) * np.array(other.t)[::-1], delta, rtol=1e-4)


@given(st.sampled_from([0.25, 0.4, 0.5, 2 / 3, 0.75]), st.integers(2, 12), st.integers(1, 10))
def test_error_follows_the_geometric_law(c, digits, n):
    predicted = 4 * math.sin(math.pi * c) * math.exp(-2 * math.pi**2 * n / math.log(16 * 10.0**digits))
    if not 1e-9 < predicted < 0.05:
        return
    assert 0.96 < predicted / power_poles(c, 10.0**-digits, n).error < 1.02


def elliptic(u, m):
    from scipy.special import ellipj

    return ellipj(u, m)


@pytest.mark.parametrize("n", [1, 2, 4, 6])
@pytest.mark.parametrize("delta", [1e-2, 1e-4])
def test_square_root_has_zolotarev_poles(n, delta):
    from scipy.special import ellipkm1

    u = (2 * np.arange(1, n + 1) - 1) * ellipkm1(delta) / (2 * n)
    sn, cn, _, _ = elliptic(u, 1 - delta)
    np.testing.assert_allclose(power_poles(0.5, delta, n).t, delta * sn**2 / cn**2, rtol=1e-6)


def test_search_converges_over_exponents_intervals_and_poles():
    for c in (0.05, 0.3, 0.5, 0.75, 0.97):
        for digits in (2, 6, 10, 14):
            for n in (1, 3, 6, 10, 16, 20):
                if 4 * math.sin(math.pi * c) * math.exp(-2 * math.pi**2 * n / math.log(16 * 10.0**digits)) < 1e-10:
                    continue
                found = power_poles(c, 10.0**-digits, n)
                np.testing.assert_allclose(measured_error(c, 10.0**-digits, found), found.error, rtol=1e-2)


def test_tolerance_selects_the_least_number_of_poles():
    for tol in (1e-1, 1e-2, 1e-3, 1e-6):
        found = power_poles(0.6, 1e-4, tol=tol)
        assert found.error <= tol
        if len(found.t) > 1:
            assert power_poles(0.6, 1e-4, len(found.t) - 1).error > tol


def test_result_is_cached():
    assert power_poles(0.61, 1e-3, 3) is power_poles(0.61, 1e-3, 3)


@pytest.mark.parametrize(
    ("args", "keywords", "message"),
    [
        ((0.0, 1e-2, 2), {}, "c is 0.0"),
        ((1.0, 1e-2, 2), {}, "c is 1.0"),
        ((math.nan, 1e-2, 2), {}, "c is nan"),
        ((0.5, 1.0, 2), {}, "delta is 1.0"),
        ((0.5, 1e-2), {}, "exactly one"),
        ((0.5, 1e-2, 2), {"tol": 0.1}, "exactly one"),
        ((0.5, 1e-2, 0), {}, "n is 0"),
        ((0.5, 1e-14, 60), {}, "out of reach"),
    ],
)
def test_bad_arguments(args, keywords, message):
    with pytest.raises(ValueError, match=message):
        power_poles(*args, **keywords)

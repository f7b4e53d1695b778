import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from jaxspec.linalg.coefficients import CLASSICAL, JORDAN, recombination

EXPONENTS = (-1 / 2, -1 / 3, 0, 1 / 4, 1 / 2)
TABLE = [
    (1e-2, 5, (2.8, -2.8, 1.0), (6.0e-2, 4.5e-2, 2.6e-2, 1.6e-2, 8.8e-3), (18, 7, 1)),
    (1e-2, 6, (2.6, -2.3, 0.7), (1.2e-2, 6.4e-3, 3.0e-3, 2.7e-3, 2.1e-3), (24, 10, 1)),
    (1e-3, 8, (2.6, -2.4, 0.8), (2.1e-2, 1.4e-2, 7.0e-3, 4.5e-3, 3.0e-3), (65, 20, 1)),
    (1e-3, 10, (2.2, -1.7, 0.5), (1.8e-3, 1.2e-3, 3.9e-4, 2.4e-4, 2.4e-4), (80, 23, 1)),
]
FLOORS = [
    (1e-2, 6, (2.6, -2.3, 0.7), (2.3e-2, 1.9e-2, 1.2e-2, 7.6e-3, 4.2e-3)),
    (1e-3, 8, (2.6, -2.4, 0.8), (2.0e-2, 1.7e-2, 1.1e-2, 7.9e-3, 4.7e-3)),
    (1e-3, 10, (2.2, -1.7, 0.5), (8.8e-3, 7.0e-3, 4.1e-3, 2.5e-3, 1.3e-3)),
]


def iterates(s, schedule):
    out = [s]
    for a, b, c in schedule:
        out.append(a * out[-1] + b * out[-1] ** 3 + c * out[-1] ** 5)
    return np.stack(out, axis=1)


@pytest.mark.parametrize(("l", "steps", "triple", "errors", "amplification"), TABLE)
def test_table_of_powers(l, steps, triple, errors, amplification):  # noqa: E741
    for gamma, error in zip(EXPONENTS, errors, strict=True):
        found = recombination((1 - gamma) / 2, l, (triple,) * steps)
        np.testing.assert_allclose(found.error, error, rtol=0.05)
    for gamma, factor in zip(EXPONENTS, amplification, strict=False):
        found = recombination((1 - gamma) / 2, l, (triple,) * steps)
        np.testing.assert_allclose(found.amplification, factor, rtol=0.05, atol=0.35)


@pytest.mark.parametrize(("eps", "steps", "triple", "errors"), FLOORS)
def test_table_of_floors(eps, steps, triple, errors):
    for c, error in zip((3 / 4, 2 / 3, 1 / 2, 3 / 8, 1 / 4), errors, strict=True):
        found = recombination(c, 0.5, (triple,) * steps, eps=eps)
        np.testing.assert_allclose(found.error, error, rtol=0.05)
        assert found.amplification < 46


def test_check_row():
    found = recombination(2 / 3, 1e-2, ((2.6, -2.3, 0.7),) * 6)
    expected = (-0.54281, -0.58018, -0.82105, -1.07749, -1.45156, 1.83412, 3.64537)
    np.testing.assert_allclose(found.alpha, expected, atol=1e-5)


@given(
    st.sampled_from([0.1, 0.3, 0.5, 2 / 3, 0.75, 0.9]),
    st.sampled_from([1e-1, 1e-2, 1e-3]),
    st.sampled_from([(3, CLASSICAL), (5, (2.8, -2.8, 1.0)), (6, (2.6, -2.3, 0.7)), (4, (3.2, -4.4, 2.0))]),
    st.sampled_from([0.0, 1e-2]),
)
def test_exchange_equals_linear_programming(c, l, schedule, eps):  # noqa: E741
    steps, triple = schedule
    found = recombination(c, l, (triple,) * steps, eps=eps)
    s = np.geomspace(min(eps / 100, 0.1) if eps else l, 1, 3000)
    basis = iterates(s, (triple,) * steps) / (s * (s**2 + eps**2) ** -c)[:, None]
    one, n = np.ones((len(s), 1)), basis.shape[1]
    oracle = linprog(
        np.r_[np.zeros(n), 1],
        np.block([[basis, -one], [-basis, -one]]),
        np.r_[one[:, 0], -one[:, 0]],
        bounds=[(None, None)] * n + [(0, None)],
    )
    np.testing.assert_allclose(found.error, oracle.fun, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.error, np.abs(basis @ np.array(found.alpha) - 1).max(), rtol=1e-6)


def test_error_alternates_at_one_point_more_than_weights():
    found = recombination(2 / 3, 1e-2, ((2.6, -2.3, 0.7),) * 6)
    s = np.geomspace(1e-2, 1, 20001)
    error = iterates(s, ((2.6, -2.3, 0.7),) * 6) @ np.array(found.alpha) * s ** (1 / 3) - 1
    peaks = np.sign(error[np.abs(error) > 0.995 * found.error])
    assert 1 + np.count_nonzero(np.diff(peaks)) == 8


def test_products_enlarge_the_basis():
    for schedule, factor in ((((2.8, -2.8, 1.0),) * 5, 1.1), (((2.6, -2.3, 0.7),) * 6, 5)):
        plain, rich = (recombination(0.75, 1e-2, schedule, eps=1e-2, products=p) for p in (False, True))
        assert rich.error < plain.error / factor
        assert len(rich.alpha) == 2 * len(schedule) + 1


def test_non_monotone_quintic_is_a_bad_basis():
    assert recombination(0.75, 1e-2, JORDAN).error > 0.2


def test_weights_fall_off_below_the_interval():
    found = recombination(0.75, 1e-2, ((2.6, -2.3, 0.7),) * 6)
    s = np.array([1e-5, 1e-6])
    value = iterates(s, ((2.6, -2.3, 0.7),) * 6) @ np.array(found.alpha)
    np.testing.assert_allclose(value[0] / value[1], 10, rtol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5, 0.1, (CLASSICAL,)), "c is 1.5"),
        ((0.5, 0.0, (CLASSICAL,)), "l is 0.0"),
        ((0.5, 0.1, ()), "schedule is"),
        ((0.5, 0.1, ((1e3, 1e3, 1e3),) * 8), "diverges"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        recombination(*arguments)


def test_negative_floor():
    with pytest.raises(ValueError, match="eps is -1"):
        recombination(0.5, 0.1, (CLASSICAL,), eps=-1.0)

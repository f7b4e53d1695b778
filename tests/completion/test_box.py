"""Bounds on the entries: pixels in [0, 1], amounts that are not negative."""

import numpy as np
import pytest
import scipy.optimize

from jaxspec.completion import blocks, complete_tensor
from jaxspec.completion.tensor import duality_gap
from jaxspec.solvers import Gap

SHAPE = (4, 4, 4)


@pytest.fixture(autouse=True)
def _double(x64):
    """Gaps go to rounding."""


def picture(seed=0):
    """Values in [0, 1] that the unbounded completion leaves."""
    rng = np.random.default_rng(seed)
    return (rng.random(SHAPE) < 0.4).astype(float), rng.random(SHAPE) < 0.6


def complete(tensor, mask, **options):
    return complete_tensor(
        tensor, mask, **{"tol": 1e-9, "max_iter": 3000, "svt": "gram", "certificate": True, **options}
    )


@pytest.mark.parametrize("lam", [None, 0.05])
def test_solution_stays_in_the_box_and_is_certified(lam):
    tensor, mask = picture()
    free, bounded = complete(tensor, mask, lam=lam), complete(tensor, mask, lam=lam, lower=0.1, upper=0.8)
    x = np.asarray(bounded.tensor)
    inside = x if lam is not None else x[~mask]
    assert np.asarray(free.tensor)[~mask].min() < 0.1, "the box should bind"
    assert inside.min() >= 0.1
    assert inside.max() <= 0.8
    assert bool(bounded.info.converged)
    assert -1e-13 <= float(bounded.info.gap) <= 1e-7
    if lam is None:
        np.testing.assert_array_equal(x[mask], tensor[mask])


@pytest.mark.as_users_compile
@pytest.mark.parametrize("lam", [None, 0.05])
def test_box_that_does_not_bind_changes_nothing(lam):
    tensor, mask = picture()
    free, bounded = complete(tensor, mask, lam=lam), complete(tensor, mask, lam=lam, lower=-9.0, upper=9.0)
    np.testing.assert_array_equal(bounded.tensor, free.tensor)
    assert -1e-13 <= float(bounded.info.gap) <= 1e-7


@pytest.mark.parametrize(
    ("lam", "bounds"),
    [(None, {"lower": 0.1}), (None, {"lower": -9.0}), (None, {"upper": 0.3}), (0.05, {"lower": 0.1})],
    ids=["exact_lower", "exact_lower_idle", "exact_upper", "noisy_lower"],
)
def test_one_sided_bounds_are_certified_too(lam, bounds):
    tensor, mask = picture()
    result = complete(tensor, mask, lam=lam, **bounds)
    x = np.asarray(result.tensor)
    inside = x if lam is not None else x[~mask]
    assert inside.min() >= bounds.get("lower", -np.inf)
    assert inside.max() <= bounds.get("upper", np.inf)
    assert -1e-13 <= float(result.info.gap) <= 1e-7


def test_gap_of_a_one_sided_box_is_finite_at_every_check():
    tensor, mask = picture()
    result = complete(tensor, mask, lower=0.1, stop=Gap(1e-8), tol=None)
    assert bool(result.info.converged)
    assert np.isfinite(result.history.trim()["gap"]).all()


def nuclear(entries, matrix, holes):
    filled = matrix.copy()
    filled[holes] = entries
    return np.linalg.norm(filled, "nuc")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_matrix_with_two_holes_is_filled_as_scipy_does(seed):
    rng = np.random.default_rng(seed)
    matrix, mask = rng.random((3, 3)), np.ones((3, 3), bool)
    mask[0, 0] = mask[1, 2] = False
    regularizer = blocks.unfoldings((3, 3), [1.0], [(0,)], method="gram")
    result = complete(matrix, mask, regularizer=regularizer, lower=0.3, upper=0.6)
    best = scipy.optimize.minimize(
        nuclear,
        [0.45, 0.45],
        (matrix, ~mask),
        "Nelder-Mead",
        bounds=[(0.3, 0.6)] * 2,
        options={"xatol": 1e-10, "fatol": 1e-13},
    )
    found = np.asarray(result.tensor)[~mask]
    assert nuclear(found, matrix, ~mask) == pytest.approx(best.fun, abs=1e-8)
    np.testing.assert_allclose(found, best.x, atol=1e-4)
    assert -1e-13 <= float(result.info.gap) <= 1e-7


def test_bounds_have_the_units_of_the_data():
    tensor, mask = picture()
    one = complete(tensor, mask, lower=0.1, upper=0.8)
    other = complete(1024 * tensor, mask, lower=102.4, upper=819.2)
    np.testing.assert_allclose(np.asarray(other.tensor) / 1024, one.tensor, atol=1e-9)


def test_duality_gap_knows_the_box():
    tensor, mask = picture()
    result = complete(tensor, mask, lower=0.1, upper=0.8)
    gap = duality_gap(result, tensor, mask, lower=0.1, upper=0.8)
    assert -1e-13 <= float(gap.relative) <= 1e-7
    assert float(duality_gap(result, tensor, mask).relative) > float(gap.relative)

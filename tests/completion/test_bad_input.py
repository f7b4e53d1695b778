"""Bad input is refused at the public boundary: the message names the argument, the value and what was expected."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import WarmStart, complete_tensor
from jaxspec.completion.tensor import duality_gap, lambda_max
from jaxspec.solvers import Residual

SHAPE = (3, 4, 4)
TENSOR = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
MASK = np.random.default_rng(1).random(SHAPE) < 0.8


def holed(value, count=1):
    tensor = TENSOR.copy()
    for index in np.argwhere(MASK)[:count]:
        tensor[tuple(index)] = value
    return tensor


BAD = {
    "one mode": ({"tensor": np.ones(3)}, r"tensor has shape \(3,\); expected at least two modes"),
    "number": ({"tensor": 3.0}, r"tensor has shape \(\); expected at least two modes"),
    "no entries": (
        {"tensor": np.ones((3, 0, 4)), "mask": None},
        r"tensor has shape \(3, 0, 4\); expected at least one entry",
    ),
    "mask shape": ({"mask": MASK[..., :3]}, r"mask has shape \(3, 4, 3\); expected that of tensor, \(3, 4, 4\)"),
    "mask two": ({"mask": MASK * 2}, "mask holds 2 at .*; expected booleans, or 0 and 1"),
    "mask half": ({"mask": np.where(MASK, 1.0, 0.5)}, "mask holds 0.5 at .*; expected booleans, or 0 and 1"),
    "mask negative": ({"mask": np.where(MASK, 1, -1)}, "mask holds -1 at .*; expected booleans, or 0 and 1"),
    "mask nan": ({"mask": np.where(MASK, 1.0, np.nan)}, "mask holds nan at .*; expected booleans, or 0 and 1"),
    "observed nan": (
        {"tensor": holed(np.nan)},
        r"tensor holds \S+ at \[0, 0, .\]; expected finite numbers where observed",
    ),
    "observed inf": (
        {"tensor": holed(-np.inf, 3)},
        r"tensor holds \S+ at \[0, 0, .\] \(3 such entries\); expected finite numbers where observed",
    ),
    "weights negative": ({"weights": [1, 2, -1]}, r"weights is \[1.0, 2.0, -1.0\]; expected finite numbers >= 0"),
    "weights array negative": ({"weights": jnp.array([1, 2, -1.0])}, "weights is .*; expected finite numbers >= 0"),
    "weights nan": ({"weights": [1, 2, np.nan]}, r"weights is \[1.0, 2.0, nan\]; expected finite numbers >= 0"),
    "weights zero": ({"weights": [0, 0, 0]}, r"weights is \[0.0, 0.0, 0.0\]; expected .*not all 0"),
    "weights length": ({"weights": [1, 2]}, r"weights has shape \(2,\); expected \(3,\), one entry per unfolding"),
    "weights number": ({"weights": 1.0}, r"weights has shape \(\); expected \(3,\), one entry per unfolding"),
    "weights square": (
        {"weights": [1.0], "regularizer": "square"},
        "weights are given with regularizer 'square'; expected None",
    ),
    "lam negative": ({"lam": -0.1}, "lam is -0.1; expected a finite number > 0"),
    "lam nan": ({"lam": float("nan")}, "lam is nan; expected a finite number > 0"),
    "lam infinite": ({"lam": float("inf")}, "lam is inf; expected a finite number > 0"),
    "over_relaxation zero": ({"over_relaxation": 0}, r"over_relaxation is 0; expected a number in \(0, 2\)"),
    "over_relaxation two": ({"over_relaxation": 2.0}, r"over_relaxation is 2.0; expected a number in \(0, 2\)"),
    "over_relaxation array": (
        {"over_relaxation": jnp.asarray(2.5)},
        r"over_relaxation is 2.5; expected a number in \(0, 2\)",
    ),
    "over_relaxation nan": ({"over_relaxation": np.nan}, r"over_relaxation is nan; expected a number in \(0, 2\)"),
    "tol negative": ({"tol": -1e-3}, "tol is -0.001; expected a number >= 0"),
    "tol nan": ({"tol": float("nan")}, "tol is nan; expected a number >= 0"),
    "tol and stop": ({"tol": 1e-3, "stop": Residual(1e-3)}, "tol and stop are given; expected one of them"),
    "max_iter": ({"max_iter": -1}, "max_iter is -1; expected an integer >= 0"),
    "check_every": ({"check_every": 0}, "check_every is 0; expected an integer >= 1"),
    "loop": ({"loop": "for"}, "loop is 'for'; expected one of"),
    "regularizer": ({"regularizer": "nuclear"}, "regularizer is 'nuclear'; expected 'snn'"),
    "regularizer empty": ({"regularizer": []}, "regularizer is empty; expected"),
    "tubal matrix": (
        {"tensor": TENSOR[0], "mask": MASK[0], "regularizer": "tubal"},
        r"shape is \(4, 4\); expected three modes",
    ),
    "obs_weights without lam": (
        {"obs_weights": np.ones(SHAPE)},
        "obs_weights are given for the exact problem; expected lam > 0",
    ),
    "obs_weights shape": (
        {"obs_weights": np.ones(3), "lam": 0.1},
        r"obs_weights has shape \(3,\); expected that of tensor, \(3, 4, 4\)",
    ),
    "obs_weights negative": (
        {"obs_weights": -np.ones(SHAPE), "lam": 0.1},
        "obs_weights holds -1.*; expected finite numbers >= 0",
    ),
    "obs_weights nan": (
        {"obs_weights": np.full(SHAPE, np.nan), "lam": 0.1},
        "obs_weights holds .*; expected finite numbers >= 0",
    ),
    "rho negative": ({"rho": -1.0}, "rho is -1.0; expected a finite number > 0"),
    "rho zero": ({"rho": 0.0}, "rho is 0.0; expected a finite number > 0"),
    "rho one negative": ({"rho": np.array([1.0, -1.0])}, "rho is .*; expected finite numbers > 0"),
    "rho shape": ({"rho": np.ones(5)}, r"rho has shape \(5,\); expected a number or"),
    "rho_scale negative": ({"rho_scale": -1.0}, "rho_scale is -1.0; expected a finite number > 0"),
    "rho_scale nan": ({"rho_scale": float("nan")}, "rho_scale is nan; expected a finite number > 0"),
    "rho_scale of the start": (
        {"init": WarmStart(jnp.asarray(TENSOR), rho_scale=-1.0)},
        "rho_scale is -1.0; expected a finite number > 0",
    ),
    "box empty": ({"lower": 1.0, "upper": 0.0}, "lower is 1.0 and upper 0.0; expected"),
    "box nan": ({"lower": float("nan")}, "lower is nan; expected"),
    "init shape": ({"init": np.ones((3, 3))}, r"init has shape \(3, 3\); expected"),
    "init nan": ({"init": np.where(MASK, 0, np.nan)}, "init holds nan at .*; expected finite numbers"),
    "truth shape": ({"truth": np.ones((3, 3))}, r"truth has shape \(3, 3\); expected"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument_is_named_with_its_value(name):
    options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        complete_tensor(**{"tensor": TENSOR, "mask": MASK, "max_iter": 2, **options})


def test_wrong_types_are_type_errors():
    with pytest.raises(TypeError, match="tensor has dtype complex64; expected real numbers"):
        complete_tensor(TENSOR.astype(np.complex64), MASK)
    with pytest.raises(TypeError, match="mask has dtype complex64; expected booleans, or 0 and 1"):
        complete_tensor(TENSOR, MASK.astype(np.complex64))


@pytest.mark.parametrize(
    ("duals", "message"),
    [
        (
            (np.zeros((1, 3, 15)), np.zeros((2, 4, 12))),
            r"dual 0 has shape \(1, 3, 15\); expected that of its block, \(1, 3, 16\)",
        ),
        (
            (np.zeros((1, 3, 16)), np.zeros((1, 4, 12))),
            r"dual 1 has shape \(1, 4, 12\); expected that of its block, \(2, 4, 12\)",
        ),
        ((np.zeros((1, 3, 16)),), "duals has 1 arrays; expected 2"),
    ],
)
def test_duals_of_a_wrong_shape_or_number_are_named(duals, message):
    start = WarmStart(jnp.asarray(TENSOR), tuple(map(jnp.asarray, duals)))
    with pytest.raises(ValueError, match=message):
        complete_tensor(TENSOR, MASK, init=start, max_iter=2)


def test_the_other_public_functions_check_the_same_input():
    result = complete_tensor(TENSOR, MASK, max_iter=2)
    with pytest.raises(ValueError, match=r"tensor holds .*; expected finite numbers where observed"):
        lambda_max(holed(np.nan), MASK)
    with pytest.raises(ValueError, match=r"tensor holds .*; expected finite numbers where observed"):
        duality_gap(result, holed(np.nan), MASK)
    with pytest.raises(ValueError, match="mask has shape"):
        duality_gap(result, TENSOR, MASK[:2])
    with pytest.raises(ValueError, match=r"lam (is|holds) .*; expected (a finite number|numbers) > 0"):
        duality_gap(result, TENSOR, MASK, lam=-1.0)


def test_lam_zero_of_any_kind_is_the_exact_problem():
    exact = complete_tensor(TENSOR, MASK, max_iter=2)
    for zero in (0, 0.0, jnp.asarray(0.0)):
        result = complete_tensor(TENSOR, MASK, lam=zero, max_iter=2)
        np.testing.assert_array_equal(result.tensor, exact.tensor)


def test_failure_is_raised_only_on_request():
    result = complete_tensor(TENSOR, MASK, max_iter=2)
    assert not bool(result.info.converged)
    with pytest.raises(RuntimeError, match="used up its iterations after 2 iterations, relative residuals"):
        complete_tensor(TENSOR, MASK, max_iter=2, raise_on_failure=True)


def test_missing_values_need_no_mask_and_no_iterations_return_the_data():
    result = complete_tensor(np.where(MASK, TENSOR, np.nan), max_iter=2)
    np.testing.assert_array_equal(result.tensor, complete_tensor(TENSOR, MASK, max_iter=2).tensor)
    start = complete_tensor(TENSOR, MASK, max_iter=0)
    np.testing.assert_array_equal(start.tensor, np.where(MASK, TENSOR, 0))


def test_unchecked_input_is_not_looked_at():
    result = complete_tensor(holed(np.nan), MASK, max_iter=2, validate=False)
    assert int(result.info.status) == 3

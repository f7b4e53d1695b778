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
    "one mode": ({"tensor": np.ones(3)}, r"tensor must have at least two modes, got shape \(3,\)"),
    "number": ({"tensor": 3.0}, r"tensor must have at least two modes, got shape \(\)"),
    "no entries": ({"tensor": np.ones((3, 0, 4)), "mask": None}, r"tensor must not be empty, got shape \(3, 0, 4\)"),
    "mask shape": ({"mask": MASK[..., :3]}, r"mask must have the shape \(3, 4, 4\) of tensor, got \(3, 4, 3\)"),
    "mask two": ({"mask": MASK * 2}, "mask must be boolean or hold only 0 and 1, got 2"),
    "mask half": ({"mask": np.where(MASK, 1.0, 0.5)}, "mask must be boolean or hold only 0 and 1, got 0.5"),
    "mask negative": ({"mask": np.where(MASK, 1, -1)}, "mask must be boolean or hold only 0 and 1, got -1"),
    "mask nan": ({"mask": np.where(MASK, 1.0, np.nan)}, "mask must be boolean or hold only 0 and 1, got nan"),
    "observed nan": (
        {"tensor": holed(np.nan)},
        r"tensor must be finite where observed, got 1 .* the first at \(0, 0, ",
    ),
    "observed inf": (
        {"tensor": holed(-np.inf, 3)},
        r"tensor must be finite where observed, got 3 .* the first at \(0, 0, ",
    ),
    "weights negative": ({"weights": [1, 2, -1]}, r"weights must be non-negative.*got \[1.0, 2.0, -1.0\]"),
    "weights array negative": ({"weights": jnp.array([1, 2, -1.0])}, "weights must be non-negative.*got"),
    "weights nan": ({"weights": [1, 2, np.nan]}, r"weights must be non-negative, finite.*got \[1.0, 2.0, nan\]"),
    "weights zero": ({"weights": [0, 0, 0]}, r"weights must be .*not all 0, got \[0.0, 0.0, 0.0\]"),
    "weights length": ({"weights": [1, 2]}, r"weights must have one entry per unfolding \(3\), got shape \(2,\)"),
    "weights number": ({"weights": 1.0}, r"weights must have one entry per unfolding \(3\), got shape \(\)"),
    "weights square": ({"weights": [1.0], "regularizer": "square"}, "weights must be None for regularizer 'square'"),
    "lam negative": ({"lam": -0.1}, "lam must be positive and finite .*, got -0.1"),
    "lam nan": ({"lam": float("nan")}, "lam must be positive and finite .*, got nan"),
    "lam infinite": ({"lam": float("inf")}, "lam must be positive and finite .*, got inf"),
    "over_relaxation zero": ({"over_relaxation": 0}, r"over_relaxation must be in \(0, 2\), got 0"),
    "over_relaxation two": ({"over_relaxation": 2.0}, r"over_relaxation must be in \(0, 2\), got 2.0"),
    "over_relaxation array": ({"over_relaxation": jnp.asarray(2.5)}, r"over_relaxation must be in \(0, 2\), got 2.5"),
    "over_relaxation nan": ({"over_relaxation": np.nan}, r"over_relaxation must be in \(0, 2\), got nan"),
    "tol negative": ({"tol": -1e-3}, "tol must be non-negative, got -0.001"),
    "tol nan": ({"tol": float("nan")}, "tol must be non-negative, got nan"),
    "tol and stop": ({"tol": 1e-3, "stop": Residual(1e-3)}, "tol belongs to the default stopping rule"),
    "max_iter": ({"max_iter": -1}, "max_iter must be >= 0, got -1"),
    "check_every": ({"check_every": 0}, "check_every must be >= 1, got 0"),
    "loop": ({"loop": "for"}, "loop must be 'while' or 'scan', got 'for'"),
    "regularizer": ({"regularizer": "nuclear"}, "regularizer must be 'snn', .*, got 'nuclear'"),
    "regularizer empty": ({"regularizer": []}, "blocks must not be empty|regularizer must"),
    "tubal matrix": (
        {"tensor": TENSOR[0], "mask": MASK[0], "regularizer": "tubal"},
        r"three-way tensor, got shape \(4, 4\)",
    ),
    "obs_weights without lam": ({"obs_weights": np.ones(SHAPE)}, "obs_weights need lam > 0"),
    "obs_weights shape": (
        {"obs_weights": np.ones(3), "lam": 0.1},
        r"obs_weights must have the shape \(3, 4, 4\).*\(3,\)",
    ),
    "obs_weights negative": ({"obs_weights": -np.ones(SHAPE), "lam": 0.1}, "obs_weights must be non-negative.*-1"),
    "obs_weights nan": (
        {"obs_weights": np.full(SHAPE, np.nan), "lam": 0.1},
        "obs_weights must be non-negative and finite",
    ),
    "rho negative": ({"rho": -1.0}, "rho must be positive and finite, got -1.0"),
    "rho zero": ({"rho": 0.0}, "rho must be positive and finite, got 0.0"),
    "rho one negative": ({"rho": np.array([1.0, -1.0])}, "rho must be positive and finite, got"),
    "rho shape": ({"rho": np.ones(5)}, r"rho must .*\(5,\)"),
    "rho_scale negative": ({"rho_scale": -1.0}, "rho_scale must be positive and finite, got -1.0"),
    "rho_scale nan": ({"rho_scale": float("nan")}, "rho_scale must be positive and finite, got nan"),
    "rho_scale of the start": (
        {"init": WarmStart(jnp.asarray(TENSOR), rho_scale=-1.0)},
        "rho_scale must be positive and finite, got -1.0",
    ),
    "box empty": ({"lower": 1.0, "upper": 0.0}, "lower must .*1.0.*0.0"),
    "box nan": ({"lower": float("nan")}, "lower must .*nan"),
    "init shape": ({"init": np.ones((3, 3))}, r"init must .*\(3, 3\)"),
    "init nan": ({"init": np.where(MASK, 0, np.nan)}, "init must be finite"),
    "truth shape": ({"truth": np.ones((3, 3))}, r"truth must .*\(3, 3\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument_is_named_with_its_value(name):
    options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        complete_tensor(**{"tensor": TENSOR, "mask": MASK, "max_iter": 2, **options})


def test_wrong_types_are_type_errors():
    with pytest.raises(TypeError, match="tensor must be real, got dtype complex64"):
        complete_tensor(TENSOR.astype(np.complex64), MASK)
    with pytest.raises(TypeError, match="mask must be boolean or hold 0 and 1, got dtype complex64"):
        complete_tensor(TENSOR, MASK.astype(np.complex64))


@pytest.mark.parametrize(
    ("duals", "message"),
    [
        ((np.zeros((1, 3, 15)), np.zeros((2, 4, 12))), r"dual 0 must have the shape \(1, 3, 16\) .* got \(1, 3, 15\)"),
        ((np.zeros((1, 3, 16)), np.zeros((1, 4, 12))), r"dual 1 must have the shape \(2, 4, 12\) .* got \(1, 4, 12\)"),
        ((np.zeros((1, 3, 16)),), "duals must .*2.*1"),
    ],
)
def test_duals_of_a_wrong_shape_or_number_are_named(duals, message):
    start = WarmStart(jnp.asarray(TENSOR), tuple(map(jnp.asarray, duals)))
    with pytest.raises(ValueError, match=message):
        complete_tensor(TENSOR, MASK, init=start, max_iter=2)


def test_the_other_public_functions_check_the_same_input():
    result = complete_tensor(TENSOR, MASK, max_iter=2)
    with pytest.raises(ValueError, match="tensor must be finite where observed"):
        lambda_max(holed(np.nan), MASK)
    with pytest.raises(ValueError, match="tensor must be finite where observed"):
        duality_gap(result, holed(np.nan), MASK)
    with pytest.raises(ValueError, match="mask must have the shape"):
        duality_gap(result, TENSOR, MASK[:2])
    with pytest.raises(ValueError, match="lam must be positive"):
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

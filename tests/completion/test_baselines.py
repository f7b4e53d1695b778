"""What every baseline keeps: observed entries, units, history, statuses, and one compilation for all numbers."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import falrtc, halrtc, mixture_nn_mf, silrtc, tmac

SHAPE, RANKS = (6, 6, 5), (2, 2, 2)


def low_rank(seed=0, shape=SHAPE):
    """Gaussian core and factors, ranks 2, float32."""
    rng = np.random.default_rng(seed)
    tensor = rng.standard_normal((2,) * len(shape))
    for mode, n in enumerate(shape):
        tensor = np.moveaxis(np.tensordot(rng.standard_normal((n, 2)), tensor, (1, mode)), 0, mode)
    return tensor.astype(np.float32)


def observe(seed=0, shape=SHAPE):
    """Seven in ten entries, at random."""
    return np.random.default_rng(100 + seed).random(shape) < 0.7


TRUTH = low_rank()
# One static configuration for nearly all tests: only numbers and data differ, so that each method compiles once.
COMMON = {"max_iter": 400, "tol": 1e-3, "truth": TRUTH}
GRAM = COMMON | {"svt": "gram"}
METHODS = {
    "halrtc": partial(halrtc, rho=0.1, growth=1.1, **GRAM),
    "silrtc": partial(silrtc, gamma=0.1, **GRAM),
    "falrtc": partial(falrtc, mu=0.1, mu_start=3.0, decay=1.1, **GRAM),
    "tmac": partial(tmac, ranks=RANKS, weights=(1, 1, 1), **COMMON),
    "mixture": partial(mixture_nn_mf, ranks=RANKS, factor_modes=(0, 2), gamma=0.1, theta=3.0, **GRAM),
}
# Powers of the unit of the data that the numbers of a method carry.
POWERS = {
    "halrtc": {"rho": -1},
    "silrtc": {"gamma": -1},
    "falrtc": {"mu": 1, "mu_start": 1},
    "tmac": {},
    "mixture": {"gamma": -1, "theta": -1},
}
every = pytest.mark.parametrize("name", METHODS)


@every
def test_observed_entries_are_returned_bit_for_bit_and_hidden_ones_never_read(name):
    mask = observe()
    result = METHODS[name](np.where(mask, TRUTH, np.nan), mask)
    assert result.tensor.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(result.tensor)[mask], TRUTH[mask])
    assert np.all(np.isfinite(result.tensor))
    np.testing.assert_array_equal(METHODS[name](np.where(mask, TRUTH, np.inf), mask=None).tensor, result.tensor)


@every
def test_history_has_the_house_keys_and_ends_with_the_run(name):
    result = METHODS[name](TRUTH, observe())
    count = int(result.info.iterations)
    assert 0 < count < 400
    assert bool(result.info.converged)
    assert (int(result.info.status), int(result.history.count)) == (1, count)
    assert np.isnan(result.info.gap)
    assert set(result.history.values) == {"primal", "dual", "rho", "objective", "nmse"}
    for quantity, values in result.history.values.items():
        assert len(values) == 400
        assert np.all(np.isfinite(values[:count])), quantity
        assert np.all(np.isnan(values[count:])), quantity
    error = np.sum((np.asarray(result.tensor) - TRUTH) ** 2) / np.sum(TRUTH**2)
    np.testing.assert_allclose(result.history.trim()["nmse"][-1], error, rtol=1e-3)


@every
def test_a_run_out_of_iterations_says_so(name):
    result = METHODS[name](TRUTH, observe(), tol=0.0)
    assert not bool(result.info.converged)
    assert (int(result.info.status), int(result.info.iterations)) == (0, 400)


@every
def test_a_power_of_two_in_the_data_and_in_the_numbers_changes_no_bit(name):
    base, scale = METHODS[name](TRUTH, observe()), 2.0**40
    numbers = {key: METHODS[name].keywords[key] * scale**power for key, power in POWERS[name].items()}
    data = TRUTH * np.float32(scale)
    scaled = METHODS[name](data, observe(), truth=data, **numbers)
    np.testing.assert_array_equal(np.asarray(scaled.tensor), np.asarray(base.tensor) * np.float32(scale))
    for dual, expected in zip(scaled.duals, base.duals, strict=True):
        np.testing.assert_array_equal(dual, expected)
    np.testing.assert_array_equal(scaled.history["nmse"], base.history["nmse"])
    power = 2 if name == "tmac" else 1
    np.testing.assert_array_equal(scaled.info.objective, base.info.objective * np.float32(scale**power))
    np.testing.assert_array_equal(scaled.rho, base.rho if name == "tmac" else base.rho / np.float32(scale))


@pytest.mark.parametrize("name", ["silrtc", "falrtc", "mixture"])
def test_default_numbers_follow_the_size_of_the_data(name):
    defaults = dict.fromkeys(POWERS[name])
    base = METHODS[name](TRUTH, observe(), **defaults)
    scaled = METHODS[name](TRUTH * np.float32(2**40), observe(), **defaults)
    np.testing.assert_array_equal(np.asarray(scaled.tensor), np.asarray(base.tensor) * np.float32(2**40))
    assert float(base.history["nmse"][int(base.info.iterations) - 1]) < 0.5


@every
def test_vmap_over_masks_is_the_loop(name):
    masks = np.stack([observe(seed) for seed in range(3)])
    batch = jax.vmap(lambda mask: METHODS[name](TRUTH, mask))(masks)
    for lane, mask in enumerate(masks):
        single = METHODS[name](TRUTH, mask)
        count = int(single.info.iterations)
        assert int(batch.info.iterations[lane]) == count
        assert np.all(np.isnan(batch.history["nmse"][lane, count:]))
        np.testing.assert_allclose(batch.tensor[lane], single.tensor, atol=2e-4)


NUMBERS = {
    "halrtc": {"rho": 0.2, "growth": 1.2, "max_rho": 10.0},
    "silrtc": {"gamma": 0.2},
    "falrtc": {"mu": 0.2, "mu_start": 2.0, "decay": 1.3},
    "tmac": {},
    "mixture": {"gamma": 0.2, "theta": 4.0},
}


@every
def test_new_numbers_compile_nothing(name, caplog):
    def run(factor, data, weights):
        numbers = {key: value * factor for key, value in NUMBERS[name].items()}
        return METHODS[name](data, observe(), weights=weights, **(numbers | {"tol": 1e-2 * factor})).tensor

    first = run(1.0, low_rank(1), [0.2, 0.3, 0.5])
    with jax.log_compiles(), caplog.at_level("WARNING"):
        second = run(1.1, low_rank(2), [0.5, 0.4, 0.1])
    assert [record.message for record in caplog.records if "Compiling" in record.message] == []
    assert not np.array_equal(first, second)


@every
def test_nothing_to_do_is_done_at_once(name):
    full = METHODS[name](TRUTH, np.ones(SHAPE, bool))
    np.testing.assert_array_equal(full.tensor, TRUTH)
    assert (int(full.info.status), int(full.info.iterations)) == (1, 0)
    zeros = METHODS[name](np.zeros(SHAPE, np.float32), observe())
    np.testing.assert_array_equal(zeros.tensor, 0)
    assert (int(zeros.info.status), int(zeros.info.iterations)) == (1, 0)
    with pytest.warns(UserWarning, match="no entry is observed"):
        empty = METHODS[name](TRUTH, np.zeros(SHAPE, bool))
    np.testing.assert_array_equal(empty.tensor, 0)
    assert (int(empty.info.status), int(empty.info.iterations)) == (4, 0)


@every
def test_an_unobserved_slice_is_completed_by_zeros(name):
    mask = observe()
    mask[2] = False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="mode 0 has slices")
        result = METHODS[name](TRUTH, mask)
    assert np.all(np.isfinite(result.tensor))
    np.testing.assert_allclose(np.asarray(result.tensor)[2], 0, atol=1e-5)


@every
def test_integers_are_promoted_to_single_precision(name):
    data = np.round(4 * TRUTH).astype(np.int32)
    result = METHODS[name](data, observe().astype(np.int32))
    assert result.tensor.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(result.tensor)[observe()], data[observe()])


@pytest.mark.parametrize("name", ["silrtc", "tmac"])
def test_half_precision_is_computed_in_single_and_returned(name):
    result = METHODS[name](TRUTH.astype(jnp.bfloat16), observe())
    assert result.tensor.dtype == jnp.bfloat16
    assert result.history["objective"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("halrtc", (5, 4), {}),
        ("falrtc", (3, 4, 2, 3), {}),
        ("tmac", (5, 4), {"ranks": (2, 2), "weights": None}),
        ("mixture", (3, 4, 2, 3), {"ranks": (1, 2, 3, 2), "factor_modes": (1, 3)}),
    ],
)
def test_any_number_of_modes_is_served(name, shape, options):
    data = low_rank(1, shape)
    result = METHODS[name](data, observe(1, shape), truth=data, **options)
    curve = result.history.trim()["nmse"]
    assert result.tensor.shape == shape
    assert curve[-1] < curve[0]


BAD = [
    ("halrtc", {"rho": 0.0}, "rho is 0.*; expected a (finite )?number > 0"),
    ("halrtc", {"growth": 0.9}, "growth is 0.9; expected a finite number >= 1"),
    ("halrtc", {"max_rho": -1.0}, "max_rho is -1.*; expected a (finite )?number > 0"),
    ("halrtc", {"tol": -1.0}, "tol is -1.0; expected a finite number >= 0"),
    ("silrtc", {"gamma": -0.5}, "gamma is -0.5.*; expected a (finite )?number > 0"),
    ("silrtc", {"gamma": float("nan")}, "gamma is nan.*; expected a (finite )?number > 0"),
    ("silrtc", {"gamma": [1.0, 2.0, 3.0]}, r"gamma has shape \(3,\); expected one that broadcasts to \(2,\)"),
    ("silrtc", {"max_iter": -1}, "max_iter is -1; expected an integer >= 0"),
    ("silrtc", {"init": np.zeros((2, 2))}, r"init has shape \(2, 2\); expected one that broadcasts to \(6, 6, 5\)"),
    ("falrtc", {"mu": 0.0}, "mu is 0.*; expected a (finite )?number > 0"),
    ("falrtc", {"mu_start": -2.0}, "mu_start is -2.0; expected a finite number > 0"),
    ("falrtc", {"decay": 0.0}, "decay is 0.*; expected a (finite )?number > 0"),
    ("falrtc", {"weights": [1.0, 1.0]}, r"weights has shape .*; expected \(3,\), one entry per unfolding"),
    ("tmac", {"ranks": (2, 2)}, r"ranks is \(2, 2\); expected 3 integers"),
    ("tmac", {"ranks": (2, 7, 2)}, r"ranks\[1\] is 7; expected an integer in \[1, 6\]"),
    ("tmac", {"ranks": (0, 2, 2)}, r"ranks\[0\] is 0; expected an integer in \[1, 6\]"),
    ("tmac", {"truth": np.zeros(7)}, r"truth has shape \(7,\); expected one that broadcasts to \(6, 6, 5\)"),
    ("mixture", {"factor_modes": ()}, r"factor_modes is \(\); expected distinct modes"),
    ("mixture", {"factor_modes": (0, 0)}, r"factor_modes is \(0, 0\); expected distinct modes"),
    ("mixture", {"factor_modes": (3,)}, r"factor_modes is \(3,\); expected distinct modes"),
    ("mixture", {"factor_modes": (0, 1, 2)}, r"factor_modes is \(0, 1, 2\); expected distinct modes"),
    ("mixture", {"theta": 0.0}, "theta is 0.*; expected a (finite )?number > 0"),
    ("mixture", {"gamma": 0}, "gamma is 0.*; expected a (finite )?number > 0"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_bad_arguments_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](TRUTH, observe(), **options)


@every
def test_input_is_checked_as_in_complete_tensor(name):
    mask = observe()
    with pytest.raises(TypeError, match="complex"):
        METHODS[name](TRUTH.astype(complex), mask)
    with pytest.raises(ValueError, match="mask has shape"):
        METHODS[name](TRUTH, mask[:-1])
    with pytest.raises(ValueError, match="expected finite numbers where observed"):
        METHODS[name](np.full(SHAPE, np.inf), mask)

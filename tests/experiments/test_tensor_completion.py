"""The parts of the tensor-completion paper run end to end at a size of seconds, with claims and figures."""

import contextlib
import warnings

import numpy as np

from tests.experiments.parts import (  # noqa: F401
    part_fixture,
    test_claims_are_measured_with_a_source,
    test_every_field_of_the_result_is_documented_and_an_array,
    test_figures_are_drawn_from_the_result,
    test_measured_numbers_are_finite,
    test_the_full_preset_measures_at_least_what_the_quick_one_does,
)

SMALL = {
    "ablation": {"seeds": 1, "rho_scales": (1.0,), "cap": 60, "optimum_iterations": 200},
    "recovery": {"side": 12, "rank": 1, "sampling": (0.1, 0.4), "max_iter": 60},
    "peers": {"synthetic_side": 10, "synthetic_rank": 1, "photograph_block": 40, "cap": 40, "optimum_iterations": 200},
    "warm_start": {"block": 40, "mixture_rank": 2, "completed_rank": 2, "cap": 40, "optimum_iterations": 200},
    "inpainting": {"block": 40, "mixture_rank": 2, "max_iter": 60},
    "noise": {"side": 6, "rank": 1, "snr": (20.0,), "points": 3, "max_iter": 60},
    "real_tensors": {"tensors": ("il2",), "sampling": (0.7,), "max_iter": 60},
    "regularizers": {"train_side": 4, "tubal_sides": (6, 6, 4), "max_iter": 40},
}


LEAST_CLAIMS = 3
OTHER_IN_FULL = ("left_out", "tubal_sides")


@contextlib.contextmanager
def sparse_rows_allowed(name, module):
    with warnings.catch_warnings():
        # So few pixels leave whole rows of the photograph unobserved.
        warnings.filterwarnings("ignore", message="mode .* has slices without an observed entry")
        yield


part = part_fixture("tensor_completion", SMALL, sparse_rows_allowed)


def test_first_below_counts_from_one_and_gives_the_cap_to_a_miss():
    from experiments.tensor_completion._problems import first_below

    curves = np.array([[1.0, 0.1, 0.01, np.nan], [1.0, 1.0, np.nan, np.nan]])
    np.testing.assert_array_equal(first_below(curves, 0.1, 99), [2.0, 99.0])


def test_photographs_are_block_means_in_the_unit_interval():
    from experiments.tensor_completion._problems import photograph

    small, large = photograph("china", 40), photograph("china", 20)
    assert small.shape == (10, 16, 3)
    assert 0 <= small.min() < small.max() <= 1
    np.testing.assert_allclose(large.reshape(10, 2, 16, 2, 3).mean(axis=(1, 3)), small, atol=1e-12)

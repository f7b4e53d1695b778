"""The parts of the tensor-completion paper run end to end at a size of seconds, with claims and figures."""

import dataclasses
import importlib
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.runner.contract import Claim
from experiments.runner.progress import Silent

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


@pytest.fixture(scope="module", params=SMALL)
def part(request):
    module = importlib.import_module(f"experiments.tensor_completion.{request.param}")
    config = dataclasses.replace(module.PRESETS["quick"], **SMALL[request.param])
    with warnings.catch_warnings():
        # So few pixels leave whole rows of the photograph unobserved.
        warnings.filterwarnings("ignore", message="mode .* has slices without an observed entry")
        return module, module.run(config, Silent())


def test_every_field_of_the_result_is_documented_and_an_array(part):
    module, result = part
    for name, value in result._asdict().items():
        assert f"{name}:" in module.Result.__doc__
        assert np.asarray(value).dtype != object


def test_claims_are_measured_numbers_with_a_source(part):
    module, result = part
    claims = module.claims(result)
    assert len(claims) >= 3
    for claim in claims:
        assert isinstance(claim, Claim)
        assert claim.source
        assert np.isfinite(claim.measured)


def test_figures_are_drawn_from_the_result(part):
    module, result = part
    figures = module.figures(result)
    assert figures
    assert all(isinstance(figure, Figure) and figure.axes for figure in figures.values())


def test_the_full_preset_measures_at_least_what_the_quick_one_does(part):
    module, _ = part
    quick, full = module.PRESETS["quick"], module.PRESETS["full"]
    for field in dataclasses.fields(quick):
        value = getattr(quick, field.name)
        if isinstance(value, tuple) and field.name != "left_out" and not field.name.endswith("sides"):
            assert set(value) <= set(getattr(full, field.name))


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

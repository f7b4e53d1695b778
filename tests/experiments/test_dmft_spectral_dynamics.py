"""The parts on spectral dynamics run end to end at a size of seconds; their claims on made-up results."""

import importlib

import numpy as np
import pytest

from experiments.dmft_spectral_dynamics import _theory
from experiments.runner.contract import Verdict
from tests.experiments.parts import (  # noqa: F401
    part_fixture,
    test_claims_are_measured_with_a_source,
    test_every_field_of_the_result_is_documented_and_an_array,
    test_figures_are_drawn_from_the_result,
    test_measured_numbers_are_finite,
    test_the_full_preset_measures_at_least_what_the_quick_one_does,
)

SMALL = {
    "outliers_linear": {"dimension": 24, "seeds": 2, "steps": 12, "recorded": (1, 8, 12)},
    "outliers_tanh": {
        "draws": 1,
        "points": 2,
        "dimension": 4,
        "sites": 80,
        "width": 20,
        "seeds": 2,
        "recorded": (1, 13),
    },
    "escape": {"steps": 4, "gamma0": (0.5, 4.0), "sigma2": (0.25, 1.0)},
    "width": {"nu": (1.0, 2.0), "network_nu": (2.0,), "dimension": 16, "seeds": 2, "steps": 20, "times": (5, 20)},
    "stability": {
        "nu": (1.0, 2.0),
        "network_nu": (2.0,),
        "dimension": 12,
        "seeds": 2,
        "steps": 9,
        "times": (0, 9),
    },
    "transfer": {"nu": (1.0, 4.0), "steps": 4, "rates": 3},
    "many_outputs": {
        "dimension": 12,
        "frozen_widths": (2.0,),
        "frozen_dimension": 12,
        "specified_dimension": 10,
        "specified_draws": 1,
        "draws": 2,
        "times": (0, 2),
        "trained_widths": (12, 24),
        "outputs": (1, 12),
        "width": 24,
        "steps": 3,
        "points": 20,
    },
    "variants": {
        "dimension": 12,
        "seeds": 2,
        "steps": 10,
        "recorded": (9, 10),
        "edge_dimension": 12,
        "relu_sites": 400,
        "relu_width": 12,
        "relu_seeds": 2,
    },
    "finite_size": {
        "small": 8,
        "small_seeds": 3,
        "sizes": (12,),
        "seeds": 2,
        "recorded": (4, 10),
        "inputs": 10,
        "widths": (1.0, 16.0),
        "steps": 3,
    },
    "checkpoint": {"seeds": 1, "outputs": (1, 10), "images": 30, "width": 24, "steps": 3},
}
LEAST_CLAIMS = 3
OTHER_IN_FULL = ()

part = part_fixture("dmft_spectral_dynamics", SMALL)


def verdicts(name, result):
    module = importlib.import_module(f"experiments.dmft_spectral_dynamics.{name}")
    return {claim.verdict for claim in module.claims(module.Result(*result))}


def outliers_linear(worse):
    theory = np.tile([1.0, 1.9, 2.0, 2.01], (3, 1))
    margin = np.tile([-0.5, 0.5, 0.6, 0.7], (3, 1))
    simulated = np.repeat(theory[:, None], 2, axis=1) * (1.1 if worse else 1.001)
    independent = theory if not worse else theory * 1.1
    return theory, margin, independent * (1 if worse else 0.9), np.ones(3), np.arange(1, 5), simulated


def outliers_tanh(worse):
    theory = np.full((3, 1, 2), 2.0)
    simulated = np.full((3, 2, 2, 1), 2.1 if worse else 2.01)
    outputs = np.ones((3, 3))
    found = np.repeat(outputs[:, None], 2, axis=1) + (0.1 if worse else 0.01)
    return np.array([1, 2]), theory, theory * (1.01 if worse else 0.8), np.asarray(1.6), simulated, outputs, found


def escape(worse):
    times = np.array([[1.0, 0.5], [2.0, 1.5]] if worse else [[np.inf, np.inf], [3.0, 4.0]])
    return np.array([1.0, 2.0]), np.array([0.5, 1.0]), times


def width(worse):
    theory = np.array([[[1.5], [1.45]], [[1.5], [0.9]]])
    margin = np.ones((2, 2))
    simulated = np.repeat(theory, 3, axis=2) * (1.05 if worse else 1.001)
    return (
        np.array([1.0, 8.0]),
        np.array([30]),
        theory[::-1] if worse else theory,
        margin,
        np.array([1.0, 8.0]),
        simulated,
    )


def stability(worse):
    theory = np.array([[[0.5, 0.944], [0.5, 0.948]], [[0.5, 0.944], [0.2, 0.35]]])
    if worse:
        theory = np.array([[[0.5, 1.2], [0.5, 0.5]], [[0.5, 0.9], [0.5, 0.9]]])
    simulated = np.repeat(theory[:, :, None], 2, axis=2) * (1.1 if worse else 1.001)
    nu = np.array([1.0, 8.0])
    return nu, np.array([0, 24]), theory, np.full((2, 2, 2), 1e-2 if worse else 1e-5), nu, simulated


def transfer(worse):
    best = [[2, 0], [5, 5]] if worse else [[2, 2], [1, 4]]
    loss = np.ones((2, 2, 6))
    for i in range(2):
        for j in range(2):
            loss[i, j, best[i][j]] = 0
    return np.geomspace(0.1, 1, 6), np.array([1.0, 8.0]), loss


def many_outputs(worse):
    shape = np.ones((1, 2))
    edges = (shape, shape * (1.1 if worse else 1.01), 0.01 * shape, shape * (0.1 if worse else 0.01))
    trained = np.array([1.8, 1.9] if worse else [1.8, 1.721])
    outliers, moved = (np.array([0, 3, 9]), [0.1, 0.1, 0.1]) if worse else (np.array([1, 3, 90]), [0.01, 0.01, 0.5])
    shown = (np.ones((1, 3)), np.ones((1, 3)), np.ones((1, 3)))
    limit = np.asarray(1.72)
    counts = np.array([1, 3, 300])
    return (
        np.ones(1),
        np.array([0, 1]),
        *edges,
        *shown,
        np.array([1, 2]),
        trained,
        limit,
        counts,
        outliers,
        np.array(moved),
    )


def variants(worse):
    theory = np.tile([1.9, 2.0, 2.01, 2.01], (5, 1))
    simulated = np.repeat(theory[:, None], 2, axis=1) * (1.1 if worse else 1.001)
    paths = np.array([[1.0, 0.5, 0.2, 0.1, 0.1, 0.1], [1.0, 0.5, 0.1, 0.2, 0.1, 0.2], [1.0, 0.5, 0.3, 0.2, 0.1, 0.2]])
    found = np.repeat(paths[:, None], 2, axis=1)
    if worse:
        found = found + np.array([0, 0.3, 0, 0.3, 0.3, 0])
    else:
        found[2, :, -1] += 0.3
    outputs = np.ones((3, 2))
    relu = np.repeat(outputs[None], 2, axis=0) * (1.2 if worse else 1.0)
    return (
        np.arange(1, 5),
        theory,
        np.full((5, 4), 0.6),
        np.ones((5, 4)),
        simulated,
        np.array([0.2, 0.25, 0.3]),
        paths,
        found,
        np.ones((3, 4)),
        outputs,
        relu,
        np.asarray(2.0),
        np.full(2, 2.2 if worse else 2.01),
    )


def finite_size(worse):
    theory, ones = np.array([2.0, 2.0]), np.ones((1, 2))
    widths = np.array([1.0, 16.0])
    limit = np.array([1.0, 2.0])
    return (
        np.array([4, 16]),
        theory,
        np.array([100]),
        0.1 * ones,
        (0.2 if worse else 0.11) * ones,
        0.01 * ones,
        0.005 * ones,
        (2.5 if worse else 2.01) * ones,
        np.array([0.1, 0.13]),
        widths,
        np.array([0.5, 0.4]) if worse else 0.16 / widths,
        np.ones((2, 2)),
        limit,
    )


def checkpoint(worse):
    counts = np.array([[1, 1], [9, 10], [60, 61]])
    ones = np.ones((3, 2))
    return (
        np.array([1, 10, 64]),
        (1.0 if worse else 0.2) * ones,
        (5 if worse else 0) * ones,
        counts[::-1] - (1 if worse else 0) if worse else counts,
        (0.2 if worse else 0.02) * ones,
        (1.2 if worse else 0.98) * ones,
        np.ones((3, 4)),
        np.asarray(2.0),
        np.ones(4),
        np.array([0.0, 2.0]),
        np.asarray(10),
        np.ones(3),
        np.ones(3),
        np.asarray(1e-3 if worse else 0.0),
    )


PARTS = [
    outliers_linear, outliers_tanh, escape, width, stability, transfer, many_outputs, variants, finite_size, checkpoint,
]  # fmt: skip


@pytest.mark.parametrize("make", PARTS, ids=lambda f: f.__name__)
def test_claims_tell_right_from_wrong(make):
    assert verdicts(make.__name__, make(False)) == {Verdict.HOLDS}
    assert Verdict.FAILS in verdicts(make.__name__, make(True))


def test_settled_needs_a_margin_and_a_quiet_step():
    found = _theory.settled([1.0, 1.5, 1.51, 1.52, np.nan], [1.0, 1.0, 1.0, 0.2, 1.0])
    assert found.tolist() == [False, False, True, False, False]
    assert _theory.spread([1.0, 3.0]) == pytest.approx(1)
    np.testing.assert_allclose(_theory.deviation(np.array([2.0]), np.array([[1.0], [4.0]])), 0.75)


def test_a_matrix_of_ones_own_is_shown(tmp_path):
    from safetensors.numpy import save_file

    module = importlib.import_module("experiments.dmft_spectral_dynamics.checkpoint")
    matrix = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32) + 1
    save_file({"w": matrix, "bias": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    own = {"checkpoint": str(tmp_path / "model.safetensors"), "tensor": "w"}
    shown, bulk, error = module._checkpoint(module.Config(**own), None)
    np.testing.assert_allclose(shown, np.linalg.svd(matrix, compute_uv=False), rtol=1e-4)
    assert (int(bulk.count), error) == (1, 0)
    with pytest.raises(ValueError, match="tensor bias has shape"):
        module._checkpoint(module.Config(**(own | {"tensor": "bias"})), None)

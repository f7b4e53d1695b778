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
        "times": (0, 2),
        "trained_widths": (12, 24),
        "outputs": (1, 12),
        "width": 24,
        "steps": 3,
        "points": 20,
    },
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
    edges = (shape, shape * (1.1 if worse else 1.01), shape * (0.1 if worse else 0.01))
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


@pytest.mark.parametrize(
    "make", [outliers_linear, outliers_tanh, escape, width, stability, transfer, many_outputs], ids=lambda f: f.__name__
)
def test_claims_tell_right_from_wrong(make):
    assert verdicts(make.__name__, make(False)) == {Verdict.HOLDS}
    assert Verdict.FAILS in verdicts(make.__name__, make(True))


def test_settled_needs_a_margin_and_a_quiet_step():
    found = _theory.settled([1.0, 1.5, 1.51, 1.52, np.nan], [1.0, 1.0, 1.0, 0.2, 1.0])
    assert found.tolist() == [False, False, True, False, False]
    assert _theory.spread([1.0, 3.0]) == pytest.approx(1)
    np.testing.assert_allclose(_theory.deviation(np.array([2.0]), np.array([[1.0], [4.0]])), 0.75)

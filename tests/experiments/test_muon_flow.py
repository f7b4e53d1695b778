"""The parts of the muon-flow paper run end to end at a size of seconds; their claims on made-up results."""

import importlib

import numpy as np
import pytest

from experiments.muon_flow import _problems
from experiments.runner.contract import Verdict
from tests.experiments.parts import (  # noqa: F401
    part_fixture,
    test_claims_are_measured_with_a_source,
    test_every_field_of_the_result_is_documented_and_an_array,
    test_figures_are_drawn_from_the_result,
)

TINY_EXPERTS = {"sequences": 2, "length": 2, "dim": 2, "key_dim": 2, "hidden": 2, "teachers": 2, "experts": 4}
SMALL = {
    "energy_identity": {"particles": 2, "points": 4, "counts": (2, 4, 8), "shown": 4, "time": 1.0},
    "rising_objective": {"eps": (0.1, 1.0), "gamma": (0.5, 4.0), "steps": 200, "starts": 2, "portrait_steps": 10},
    "exponential": {"particles": 4, "eps": (0.1,), "gamma": (0.5,), "time": 5.0, "discrete_steps": 100},
    "chaos": {"order": 3, "time": 0.2, "counts": (4, 8), "repeats": 4, "total": 8},
    "discrete": {"time": 1.0, "counts": (4, 8, 16), "map_betas": (0.0, 0.9), "map_ratios": (0.5, 3.0), "map_steps": 20},
    "experts": TINY_EXPERTS
    | {"steps": 20, "counts": (20, 40), "chaos_counts": (2, 4), "chaos_limit": 8, "chaos_repeats": 1, "chaos_steps": 4},
    "constant_rate": TINY_EXPERTS | {"steps": 5},
    "limits": {"steps": 20, "eps": (0.1, 0.03, 0.01), "gammas": (10.0, 20.0), "reference_steps": 10, "time": 0.5},
}


def load(part):
    return importlib.import_module(f"experiments.muon_flow.{part}")


LEAST_CLAIMS = 3


part = part_fixture("muon_flow", SMALL)


def test_exact_statements_hold_at_any_size(part):
    module, result = part
    if module.__name__.endswith("energy_identity"):
        assert result.ledgers[:, -1].max() < 1e-14
        assert result.rises.max() < 0
    if module.__name__.endswith("discrete"):
        assert result.symmetric < 1e-14
        assert result.excess[:, 0].max() < 1e-12
    if module.__name__.endswith("exponential"):
        assert result.descent.max() < 1e-12
        assert result.discrete_excess.max() < 1e-12
    if module.__name__.endswith("experts"):
        assert np.diff(result.hamiltonian).max() < 0


def verdicts(name, result):
    return [claim.verdict for claim in load(name).claims(result)]


def energy_identity_result(worse):
    module = load("energy_identity")
    counts = np.array([20, 40, 80])
    order = np.array([1, 2, 2, 4, 2]) + (1 if worse else 0)
    power = (20 / counts)[None, None, :]
    errors = power ** order[None, :, None]
    defects = power ** np.minimum(order, 2 + worse)[None, :, None]
    ledgers = np.where(order[None, :, None] > 0, errors, 0.0)
    ledgers = ledgers.copy()
    ledgers[:, 4] = 1e-3 if worse else 1e-16
    rises = np.full(errors.shape, 1e-3 if worse else -1e-3)
    series = np.ones((5, 3))
    return module.Result(
        np.array([0.1]), counts, errors, defects, ledgers, rises, errors > 0, counts, series, series, series
    )


def chaos_result(worse):
    counts = np.array([16, 64, 256])
    error = (0.39 / counts) ** (0.25 if worse else 0.5)
    limit = np.array([0.20266, 0.2133]) + worse
    return load("chaos").Result(counts, error, error, limit)


def constant_rate_result(worse):
    final = np.array([1e-3, 1e-8, 1e-8, 1e-2]) if worse else np.array([1e-8, 1e-3, 1e-3, 1e-12])
    losses = np.ones((1, 4, 3)) * final[None, :, None]
    return load("constant_rate").Result(np.array([0.02]), losses)


def limits_result(worse):
    differences = np.array([0.1, 0.05, 0.02]) if not worse else np.array([0.1, 0.02, 0.05])
    errors = np.array([0.2, 0.1, 0.05]) if not worse else np.array([0.2, 0.2, 0.2])
    return load("limits").Result(
        np.array([0.1, 0.03, 0.01, 0.003]),
        differences,
        np.asarray(0.5 if worse else 0.99),
        np.array([10, 20, 40]),
        errors,
    )


@pytest.mark.parametrize("make", [energy_identity_result, chaos_result, constant_rate_result, limits_result])
def test_claims_tell_right_from_wrong(make):
    name = make.__name__.removesuffix("_result")
    assert set(verdicts(name, make(False))) == {Verdict.HOLDS}
    assert set(verdicts(name, make(True))) == {Verdict.FAILS}


def test_deterministic_particles_are_those_of_the_specification():
    x = _problems.particles(2, 1, 1)
    np.testing.assert_allclose(x[1, 0, 0], np.sin(1 + 2 * 2**0.5 + 3 * 3**0.5 + 4 * 5**0.5))
    assert _problems.slope([1, 2, 4], [1, 0.5, 0.25]) == pytest.approx(-1)

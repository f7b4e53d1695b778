"""The parts of the memory paper run end to end at a size of seconds; their claims on made-up results; what they use."""

import dataclasses
import importlib
import shutil

import jax
import numpy as np
import pytest

from experiments.associative_memory._laws import kinematic_p
from experiments.associative_memory._optimum import bisected, draws
from experiments.associative_memory.baselines import Prefixes
from experiments.runner.contract import Verdict
from experiments.runner.progress import Silent
from jaxspec.memory import theory
from tests.experiments.parts import (  # noqa: F401
    part_fixture,
    test_claims_are_measured_with_a_source,
    test_every_field_of_the_result_is_documented_and_an_array,
    test_figures_are_drawn_from_the_result,
    test_measured_numbers_are_finite,
    test_the_full_preset_measures_at_least_what_the_quick_one_does,
)

SMALL = {
    "capacity": {"seeds": 2, "dims": (4,), "samples": 40, "decades": (2, 3)},
    "equivalence": {"seeds": (2, 2), "dims": (4, 5), "load_seeds": 1, "load_dim": 4, "loads": (0.5, 0.8)},
    "mechanism": {"seeds": 2, "dim": 5, "points": 20},
    "baselines": {
        "all_dims": (6, 8),
        "all_seeds": 2,
        "fraction_dims": (5, 6),
        "fraction_seeds": 2,
        "dim": 6,
        "seeds": 4,
        "loads": (0.5, 1.0, 2.5),
        "steps": 20,
    },
    "ranks": {"seeds": 2, "dim": 4, "widths": (2, 4), "num_starts": 1, "steps": 20},
}
LEAST_CLAIMS = 5
OTHER_IN_FULL = ("seeds",)

part = part_fixture("associative_memory", SMALL)


def load(name):
    return importlib.import_module(f"experiments.associative_memory.{name}")


# Claims on made-up results.


def capacity_result(worse):
    module = load("capacity")
    low = np.tile(np.array([[62.0], [66.0], [61.5], [65.9]]), (1, 1, 3))
    if worse:
        low = low * np.array([[1.2], [1.2], [0.8], [0.8]])
    log_p = np.array([2.0, 3.0, 4.0]) * np.log(10)
    constant = np.array([0.75, 0.8, 0.9]) if worse else np.array([1.0, 0.9, 0.8])
    remainder = np.array([1.0, 1.1, 1.2]) if worse else np.array([1.0, 0.9, 0.8])
    counts = np.full(low.shape, 2 if worse else 0)
    kinematic = np.array([[61.0, 66.0]])
    line = np.array([10.0, 16.0]), np.array([30.0, 61.65])
    size = np.array([16]), np.array(["gaussian", "sphere"]), low, low + 1, counts, np.array([7.0]), np.array([61.65])
    return module.Result(*size, kinematic, np.ones((1, 2)), *line, log_p, constant, remainder)


def equivalence_result(worse):
    module = load("equivalence")
    dims, seeds = np.array([24, 64]), np.array([10, 10])
    difference = np.array([0.09, 0.1] if worse else [0.065, 0.04])
    margin = np.array([0.9, 0.8] if worse else [0.8, 0.9])[:, None, None] * np.ones((2, 2, 2))
    ks = np.array([0.1, 0.2] if worse else [0.2, 0.1])[:, None, None] * np.ones((2, 2, 2))
    loads = np.array([0.3, 0.9])
    by_load = np.broadcast_to((loads if worse else 2 - loads)[:, None, None], (2, 2, 2))
    gaps = np.full(5, 2e-3 if worse else 5e-4)
    errors, predicted = np.full(2, 5e-3), np.ones(2)
    return module.Result(
        dims, seeds, margin, difference, errors, ks, ks, predicted, loads, 16, by_load, 2 - loads, gaps
    )


def mechanism_result(worse):
    module = load("mechanism")
    each = lambda good, bad: np.full((2, 4, 3), bad if worse else good)  # noqa: E731
    scores = np.zeros((2, 2, 4, 12))
    deviations = each(0.3, 0.7), each(1.0, 1.0)
    active = each(7.5, 9.0), np.array([7.8, 7.6])
    law = np.array([[3.0, 0.2], [2.3, 0.2]]), np.arange(4.0), np.ones((2, 4))
    spectral = np.ones((2, 4, 3, 5)), each(1.9, 2.6), each(0.03, 0.2)
    gap = 2e-3 if worse else 5e-4
    return module.Result(5, np.array([0.5, 0.8]), *scores, *deviations, *active, *law, *spectral, gap)


def baselines_result(worse):
    module = load("baselines")
    dims, spread = np.array([32, 64, 128]), np.ones((1, 4))
    alls = np.array([30.8, 100.0, 322.0])[:, None] * spread
    alls = np.array([28.0, 60.0, 160.0])[:, None] * spread if worse else alls
    predicted, optimal = np.array([33.2, 104.6, 354.5]), np.array([182.0, 564.0, 1813.0])
    fraction = np.array([90.0, 160.0])[:, None] * spread
    fraction_predicted = np.array([50.0 if worse else 85.0, 150.0])
    sizes, loads = np.array([43, 87, 130]), np.array([0.5, 1.0, 1.5])
    trained = np.array([[0.8, 1.0], [1.0, 1.0], [0.9, 0.9]] if worse else [[1.0, 1.0], [0.9, 1.0], [0.3, 0.2]])
    margin = np.full((3, 2), 0.1) if worse else np.array([[0.5, 0.5], [-0.1, 0.1], [-1.0, -1.0]])
    status = np.array([[1, 1], [1, 1], [-1, -1]])
    recalled = np.full((3, 2), 0.7), np.full(3, 0.7)
    rule = dims, alls, predicted, optimal, np.array([24, 32]), fraction, fraction_predicted
    return module.Result(*rule, 20, sizes, loads, *recalled, trained, margin, status)


def ranks_result(worse):
    module = load("ranks")
    widths = np.array([2, 5, 10, 20])
    found = np.array([20, 35, 40, 50] if worse else [30, 60, 80, 92])[:, None] * np.ones((1, 3))
    bound = np.array([40.0, 60.0, 80.0, 87.0])
    margin = np.ones((4, 3))
    upper, adam = margin * (1.5 if worse else 1.15), margin * (1.2 if worse else 0.97)
    adams = np.full((4, 3), worse), np.full(3, 93)
    return module.Result(20, widths, found, *adams, bound, margin, upper, adam, np.ones(4), np.ones((4, 3, 20)))


MADE_UP = {
    "capacity": capacity_result,
    "equivalence": equivalence_result,
    "mechanism": mechanism_result,
    "baselines": baselines_result,
    "ranks": ranks_result,
}


@pytest.mark.parametrize("name", MADE_UP)
def test_claims_hold_on_a_result_like_the_specification_and_keep_their_reasons_where_they_do_not(name):
    claims = load(name).claims(MADE_UP[name](False))
    assert [claim.statement for claim in claims if claim.verdict in (Verdict.FAILS, Verdict.SURPRISE)] == []


@pytest.mark.parametrize("name", MADE_UP)
def test_every_claim_fails_on_a_result_unlike_it(name):
    claims = load(name).claims(MADE_UP[name](True))
    assert [claim.statement for claim in claims if claim.holds] == []


# What the parts use.


def test_capacities_that_are_kept_are_found_again_for_the_same_numbers_alone(tmp_path, monkeypatch):
    module = load("capacity")
    config = module.Config(seeds=2, dims=(4,), embeddings=("sphere",), samples=40, listed_from=4, kept=str(tmp_path))
    first = module.run(config, Silent())
    assert first.low.shape == (1, 2, 2)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["decoupled-sphere-4", "original-sphere-4"]
    asked = []

    def other(key, d, *, model, **options):
        asked.append(model)
        return module.Capacity(*np.full((4, 2), 7))

    monkeypatch.setattr(module, "capacity", other)
    again = module.run(config, Silent())
    assert asked == []
    np.testing.assert_array_equal(again.low, first.low)
    shutil.rmtree(tmp_path / "original-sphere-4")
    module.run(config, Silent())
    assert asked == ["original"]
    assert np.all(module.run(dataclasses.replace(config, seed=3), Silent()).low == 7)


def test_models_share_keys_and_values_draw_by_draw():
    one, other = (draws(3, 6, 4, (model, "sphere"), 2) for model in ("original", "decoupled"))
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.y, other.y)
    assert one.competitors is None
    assert other.competitors.shape == (2, 6, 6, 4)


def test_prefixes_are_counted_as_by_the_rule_on_each_of_them():
    a = jax.tree.map(lambda v: v[0], draws(4, 14, 5, ("original", "sphere"), 1))
    counted = np.asarray(Prefixes()(a))
    x, y = (np.asarray(v, float) for v in (a.x, a.y))
    for n in range(2, 15):
        scores = x[:n] @ (x[:n].T @ y[:n]) @ y[:n].T
        assert counted[n - 1] == np.sum(np.argmax(scores, axis=1) == np.arange(n))
    assert counted[-1] < 14


def test_bisection_finds_the_last_positive_answer():
    truth = np.array([2, 7, 30, 31])
    np.testing.assert_array_equal(bisected(lambda n: n <= truth, np.full(4, 2), np.full(4, 32)), truth)


def test_the_kinematic_capacity_is_near_the_theory():
    p, error = kinematic_p(0, 10, "gaussian", 200)
    assert 0 < error < 0.1 * p
    assert p == pytest.approx(theory.critical_p(10), abs=4 * error + 0.1 * p)

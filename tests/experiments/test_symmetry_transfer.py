"""The parts of the symmetry paper run end to end at a size of seconds; the corpus, and claims on made-up results."""

import importlib

import jax
import numpy as np
import pytest

from experiments.runner.contract import Verdict
from experiments.symmetry_transfer import _calendar
from tests.experiments.parts import (  # noqa: F401
    part_fixture,
    test_claims_are_measured_with_a_source,
    test_every_field_of_the_result_is_documented_and_an_array,
    test_figures_are_drawn_from_the_result,
    test_the_full_preset_measures_at_least_what_the_quick_one_does,
)

SMALL = {
    "nonconvex": {"keys": 2, "dims_7": (4, 6), "dims_12": (4,)},
    "frequencies": {"budgets": 12},
    "groups": {"budgets": (1.0,)},
    "calendar": {"steps": 2, "batch": 2, "shuffles": 20, "nulls": 20},
    "checkpoint": {"seeds": 2, "tokens": 120, "width": 16, "controls": 9},
}
LEAST_CLAIMS = 5
OTHER_IN_FULL = ()

part = part_fixture("symmetry_transfer", SMALL)


def test_exact_statements_hold_at_any_size(part):
    module, result = part
    name = module.__name__.rpartition(".")[2]
    failed = [c.statement for c in module.claims(result) if c.verdict is Verdict.FAILS]
    if name in ("nonconvex", "frequencies", "groups"):
        assert failed == []
    if name == "checkpoint":
        assert result.worst_row == 0


def load(name):
    return importlib.import_module(f"experiments.symmetry_transfer.{name}")


def calendar_result(**changed):
    kinds = np.array(["Muon", "untrained", "shuffled weekdays"])
    r2 = np.full((3, 1, 4), 0.1)
    r2[0, 0, :2] = r2[2, 0, 1] = 0.9
    p = np.full((3, 1, 4), 0.5)
    p[0, 0, :2], p[2, 0, 1] = (3 / 360, 0.001), 0.001
    fields = {
        "kinds": kinds,
        "groups": np.array(["weekdays", "months", "colours", "names"]),
        "r2": r2,
        "p_values": p,
        "spreads": np.full((3, 1, 4), 0.15),
        "defects": np.full((3, 1), 0.5),
        "defect_p_values": np.full((3, 1), 0.9),
        "losses": np.ones((3, 1)),
        "weekdays": np.zeros((3, 7, 7)),
        "months": np.zeros((3, 12, 12)),
    }
    return load("calendar").Result(**(fields | changed))


def verdicts(result):
    return [claim.verdict for claim in load("calendar").claims(result)]


def test_the_calendar_claims_hold_on_a_clean_result_and_know_the_simplex():
    assert verdicts(calendar_result()) == [Verdict.HOLDS] * 8 + [Verdict.KNOWN]


@pytest.mark.parametrize(
    ("kind", "group", "p_value", "claim"),
    [(0, 0, 0.02, 0), (0, 1, 0.02, 1), (0, 2, 0.01, 5), (2, 0, 0.001, 6), (2, 1, 0.5, 7)],
)
def test_each_calendar_claim_can_fail(kind, group, p_value, claim):
    p = calendar_result().p_values.copy()
    p[kind, 0, group] = p_value
    assert verdicts(calendar_result(p_values=p))[claim] is Verdict.FAILS


def test_an_untrained_geometry_would_be_noticed():
    r2 = calendar_result().r2.copy()
    r2[1, 0, 0] = 0.8
    assert verdicts(calendar_result(r2=r2))[3] is Verdict.FAILS
    assert verdicts(calendar_result(defect_p_values=np.full((3, 1), 0.01)))[8] is Verdict.SURPRISE


def test_a_gram_matrix_further_from_circulant_than_before_training_would_be_noticed():
    spreads = calendar_result().spreads.copy()
    spreads[0, 0, 0] *= 4  # of which a tenth is not circulant; untrained nine tenths
    assert verdicts(calendar_result(spreads=spreads))[4] is Verdict.FAILS


def words(tokens):
    return [_calendar.TOKENS[token] for token in tokens]


def sentences(text):
    return " ".join(words(text)).split(" . ")


def test_the_corpus_tells_the_truth_about_the_calendar():
    text = sentences(_calendar.corpus(0))[1:-1]
    weekdays, months = _calendar.WEEKDAYS, _calendar.MONTHS
    kinds = dict.fromkeys(("dates", "counts"), 0)
    for line in text[:3000]:
        parts = line.split()
        if len(parts) == 11:
            kinds["dates"] += 1
            first, second = weekdays.index(parts[0]), weekdays.index(parts[4])
            assert (second - first) % 7 == 1
            assert (parts[1] == parts[5] and int(parts[6]) == int(parts[2]) + 1) or parts[6] == "1"
        if len(parts) == 6 and parts[1] in ("days", "months"):
            kinds["counts"] += 1
            cycle = weekdays if parts[1] == "days" else months
            sign = 1 if parts[2] == "after" else -1
            assert cycle.index(parts[5]) == (cycle.index(parts[3]) + sign * int(parts[0])) % len(cycle)
    assert min(kinds.values()) > 100


def test_counts_of_neighbours_have_the_symmetry_and_colours_do_not():
    text = _calendar.corpus(1)

    def counts(verb, group):
        cycle = _calendar.rows_of(group)
        place = {row: k for k, row in enumerate(cycle)}
        table = np.zeros((len(cycle), len(cycle)))
        for at in np.flatnonzero(text == _calendar.ROW[verb]):
            if 0 < at < len(text) - 1 and text[at - 1] in place and text[at + 1] in place:
                table[place[text[at - 1]], place[text[at + 1]]] += 1
        return table / table.sum(1, keepdims=True)

    days = counts("comes", "weekdays")
    aligned = np.stack([np.roll(row, -k) for k, row in enumerate(days)])
    assert aligned.std(axis=0).max() < 0.03
    assert aligned[:, 1].mean() > 3 * aligned[:, 3].mean() > 0
    colours = counts("becomes", "colours")
    assert np.stack([np.roll(row, -k) for k, row in enumerate(colours)]).std(axis=0).max() > 0.08
    names = counts("likes", "names")
    assert np.abs(names[~np.eye(8, dtype=bool)] - 1 / 7).max() < 0.04


def test_shuffling_touches_the_weekdays_only():
    plain, shuffled = _calendar.corpus(2), _calendar.corpus(2, shuffled_weekdays=True)
    weekday = np.isin(plain, _calendar.rows_of("weekdays"))
    np.testing.assert_array_equal(plain[~weekday], shuffled[~weekday])
    assert np.isin(shuffled[weekday], _calendar.rows_of("weekdays")).all()
    assert np.mean(plain[weekday] == shuffled[weekday]) < 0.2


def test_training_repeats_for_a_seed():
    how = _calendar.Training("AdamW", steps=2, batch=2)
    text = _calendar.corpus(0)
    runs = [_calendar.train(text, how, seed)[0] for seed in (0, 0, 1)]
    first, again, other = (np.asarray(jax.tree.leaves(model)[-1]) for model in runs)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0

"""Claims: what holds, what does not, and what NaN can never do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.runner.contract import Claim, Verdict, number

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=1), finite)
def test_at_most_and_at_least_are_decided_by_the_worst_entry(values, bound):
    upper = Claim.at_most("s", "p", np.array(values), bound)
    lower = Claim.at_least("s", "p", np.array(values), bound)
    assert (upper.measured, upper.holds) == (max(values), max(values) <= bound)
    assert (lower.measured, lower.holds) == (min(values), min(values) >= bound)


@given(st.lists(finite), st.integers(0, 5))
def test_a_nan_anywhere_never_holds(values, place):
    values.insert(place, math.nan)
    claims = [
        Claim.at_most("s", "p", values, math.inf),
        Claim.at_least("s", "p", values, -math.inf),
        Claim.close_to("s", "p", values, 0.0, math.inf),
    ]
    assert [claim.holds for claim in claims] == [False, False, False]
    assert all(math.isnan(claim.measured) for claim in claims)


@pytest.mark.parametrize("measured", [math.nan, np.float32("nan"), np.array(math.nan)])
def test_a_claim_about_nan_does_not_hold_even_when_told_so(measured):
    claim = Claim("s", "p", "c", measured, True)
    assert claim.holds is False
    assert claim.verdict is Verdict.FAILS


def test_nothing_measured_does_not_hold():
    assert not Claim.at_most("s", "p", [], 1.0).holds
    assert not Claim.at_least("s", "p", [], 1.0).holds
    assert not Claim.close_to("s", "p", [], 1.0, 1.0).holds


def test_close_to_reports_the_farthest_entry():
    claim = Claim.close_to("s", "p", [0.9, 1.3, 1.0], 1.0, 0.2, quantity="slope")
    assert (claim.measured, claim.holds, claim.criterion) == (1.3, False, "slope = 1 ± 0.2")
    assert Claim.close_to("s", "p", [0.9, 1.1], 1.0, 0.2).holds


@pytest.mark.parametrize(
    ("holds", "known", "verdict", "strict_failure"),
    [
        (True, "", Verdict.HOLDS, False),
        (False, "", Verdict.FAILS, True),
        (False, "why", Verdict.KNOWN, False),
        (True, "why", Verdict.SURPRISE, True),
    ],
)
def test_strictness_in_both_directions(holds, known, verdict, strict_failure):
    claim = Claim("s", "p", "c", 1.0, holds, known)
    assert claim.verdict is verdict
    assert claim.verdict.strict_failure is strict_failure


def test_criterion_names_the_quantity_and_the_bound():
    assert Claim.at_most("s", "p", 0.0, 1e-10, quantity="final NMSE").criterion == "final NMSE ≤ 1e-10"
    assert Claim.at_least("s", "p", 0.0, 3).criterion == "≥ 3"


def test_numpy_booleans_and_numbers_become_python_ones():
    claim = Claim("s", "p", "c", np.float32(0.5), np.bool_(True))
    assert (type(claim.measured), type(claim.holds)) == (float, bool)


@pytest.mark.parametrize("measured", [np.ones(3), [1.0, 2.0]])
def test_an_array_is_not_one_measured_number(measured):
    with pytest.raises(TypeError, match="one number or a text"):
        Claim("s", "p", "c", measured, True)


def test_numbers_are_written_for_readers():
    assert [number(value) for value in (3, True, 0.123456, 1e-10, math.nan)] == ["3", "yes", "0.1235", "1e-10", "nan"]

"""The linear model of GRASP end to end at a size of seconds; its claims on made-up results."""

import numpy as np
import pytest

from experiments.grasp import linear
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
    "linear": {
        "seeds": 1,
        "dim": 24,
        "skills": (2, 8),
        "strengths": (0.05, 0.2, 0.8),
        "few_skills": (3,),
        "spikes": (1.5, 3.0),
        "spike_dim": 40,
        "spike_draws": 2,
        "growth_step": 1e-3,
        "layers": (1, 4),
        "own": (0.9, 1.5),
    }
}
LEAST_CLAIMS = 8
OTHER_IN_FULL = ()

part = part_fixture("grasp", SMALL)


def test_closed_forms_hold_at_any_size(part):
    _, result = part
    np.testing.assert_allclose(result.modes, result.modes_law, rtol=1e-2)
    np.testing.assert_allclose(result.stacked, [[1, 1], [0, 1]], atol=1e-3)
    np.testing.assert_allclose(result.single, [[1, 1], [0, 0]], atol=1e-3)
    np.testing.assert_allclose(result.strongest, [[1, 4], [2.25, 4]], rtol=1e-5)
    assert result.cosines[0, 2, 0] > 0.95
    assert result.cosines[1, 0, 0] < result.cosines[1, 2, 0]


@pytest.mark.parametrize(
    ("field", "value", "fallen"),
    [
        ("cosines", 0.0, 1),
        ("cosines", 1.0, 1),
        ("near", 0.5, 2),
        ("squared", 0.0, 1),
        ("modes", 0.0, 1),
        ("stacked", 0.5, 1),
    ],
)
def test_claims_can_fall(part, field, value, fallen):
    _, result = part
    worse = result._replace(**{field: np.full_like(getattr(result, field), value)})
    failed = [claim.verdict for claim in linear.claims(worse)].count(Verdict.FAILS)
    assert failed >= fallen

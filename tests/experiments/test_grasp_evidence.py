"""Claims of the evidence beyond the spectrum on made-up results; the part itself runs beside the decoder's others."""

import numpy as np
import pytest

from experiments.grasp import evidence as module
from experiments.runner.contract import Verdict


def made_up(entangled, clean, factors=(0, 1)):
    """Values and p-values for ten adapters of each kind, from the shares recognised; content_w misses one of three."""
    told = np.stack([np.arange(10) < 10 * share for share in (entangled, clean)])
    # content_r does not tell the kinds apart
    values = np.repeat(np.where(told, 2.0, 1.0)[..., None], 4, axis=-1) + np.linspace(0, 0.1, 10)[:, None]
    values[:, :, 1] = np.linspace(1, 2, 10)
    p_values = np.repeat(np.where(told, 0.001, 0.5)[..., None], 4, axis=-1)
    p_values[0, np.arange(10) % 3 == 1, 0] = 0.5
    factors = np.repeat(np.asarray(factors)[:, None], 10, axis=1)
    return module.Result(
        *(np.asarray(module.KINDS), np.asarray(module.STATISTICS), values, p_values, factors, 0.5),
        *(np.arange(10) % 4, 0.01, 2500),
    )


def test_claims_hold_for_what_they_say():
    result = made_up(1.0, 0.0)
    verdicts = [claim.verdict for claim in module.claims(result)]
    assert Verdict.FAILS not in verdicts
    assert verdicts.count(Verdict.KNOWN) == 1
    assert verdicts.count(Verdict.SURPRISE) == 2  # content_w alone, better than measured, and accusing nobody


@pytest.mark.parametrize(("changes", "fallen"), [((0.4, 0.0), 2), ((1.0, 0.2), 2), ((1.0, 0.0, (0, 0)), 1)])
def test_claims_can_fall(changes, fallen):
    result = made_up(*changes)
    assert [claim.verdict for claim in module.claims(result)].count(Verdict.FAILS) >= fallen

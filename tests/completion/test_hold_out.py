"""The choice of lam for tensors: the end of its grid."""

import jax
import numpy as np
import pytest

from jaxspec.completion import choose_lam

SHAPE = (10, 12, 14)
KEY = jax.random.key(0)
RNG = np.random.default_rng(4)
SIGNAL = np.einsum("ia,ja,ka->ijk", *(RNG.standard_normal((n, 2)) for n in SHAPE))
NOISE = RNG.standard_normal(SHAPE)
MASK = RNG.random(SHAPE) < 0.7
OPTIONS = {"key": KEY, "splits": 1, "max_iter": 200}


def test_a_large_level_makes_the_default_grid_go_on_and_a_given_one_warns():
    tensor = (SIGNAL + 50 + 0.05 * NOISE).astype(np.float32)
    result = choose_lam(tensor, MASK, **OPTIONS)
    assert len(result.lams) == 24
    assert not bool(result.at_edge)
    assert 12 <= int(np.argmin(result.errors)) < 23
    with pytest.warns(UserWarning, match="the smallest of 12 candidates for lam"):
        given = choose_lam(tensor, MASK, lams=result.lams[:12], **OPTIONS)
    assert bool(given.at_edge)
    assert float(result.hold_out_error) < 0.9 * float(given.hold_out_error)
    # A third grid would end below the rounding of float32.
    assert float(result.lams[-1]) > np.finfo(np.float32).eps * float(result.lams[0]) > float(result.lams[-1]) * 1e-3


def test_two_candidates_are_both_ends_and_neither_warns():
    assert not bool(choose_lam(SIGNAL.astype(np.float32), MASK, lams=[0.1, 1.0], **OPTIONS).at_edge)

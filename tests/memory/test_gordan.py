"""Exact proofs of infeasibility, against linear programs and instances that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.memory import Associations, check_feasible, prove_infeasible, sample_associations
from tests.memory.problems import separable


@pytest.mark.parametrize("model", ["original", "decoupled"])
def test_infeasible_draws_are_proved_and_feasible_ones_are_not(model):
    proofs = 0
    for seed in range(6):
        a = sample_associations(jax.random.key(seed), 15, 5, model=model)
        found = check_feasible(a)
        proof = prove_infeasible(a, found.multipliers)
        assert not (proof.proved and separable(a))
        if int(found.status) < 0:
            proofs += 1
            assert proof.proved
            assert proof.distance < proof.smallest
            mu, nu = proof.pairs.T
            x, y = (np.asarray(v, float) for v in (a.x, a.y))
            c = y[nu] if a.competitors is None else np.asarray(a.competitors, float)[mu, nu]
            assert np.linalg.norm(np.einsum("k,ki,kj->ij", proof.multipliers, y[mu] - c, x[mu])) < 1e-9
    assert proofs >= 3


def test_a_margin_below_the_tolerance_is_no_proof():
    """Status -1 for a tolerance above the margin; exactly, the pairs can be told apart."""
    a = Associations(jnp.array([[1.0, 0.0], [1.0, 1e-3]]), jnp.eye(2))
    found = check_feasible(a, tol=1.0)
    assert int(found.status) == -1
    assert not prove_infeasible(a, found.multipliers).proved
    assert int(check_feasible(a).status) == 1


def test_equal_values_are_an_exact_proof_and_zero_multipliers_none():
    a = sample_associations(jax.random.key(0), 4, 6)
    same = a._replace(y=a.y.at[1].set(a.y[0]))
    with pytest.warns(UserWarning, match="with_answers"):
        found = check_feasible(same)
    assert prove_infeasible(same, found.multipliers).proved
    assert not prove_infeasible(a, np.zeros((4, 4), np.float32)).proved
    assert not prove_infeasible(a, np.eye(4, dtype=np.float32)).proved  # only pairs that do not compete


def test_lists_carry_the_proof():
    a = sample_associations(jax.random.key(2), 20, 5)
    found = check_feasible(a, top=12, block=8)
    assert int(found.status) == -1
    assert prove_infeasible(a, found.multipliers, found.listed).proved


def test_bad_multipliers_are_named():
    a = sample_associations(jax.random.key(0), 4, 3)
    for bad in (np.zeros((4, 3), np.float32), -np.ones((4, 4), np.float32), np.full((4, 4), np.nan, np.float32)):
        with pytest.raises(ValueError, match="multipliers"):
            prove_infeasible(a, bad)

"""Resuming a completion: bit for bit the one that was never interrupted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import complete_tensor
from jaxspec.solvers import Gap, Residual

ENDLESS = Residual(0.0, patience=None)


RNG = np.random.default_rng(0)
TENSOR, MASK = RNG.standard_normal((4, 4, 4)), RNG.random((4, 4, 4)) < 0.7


@pytest.fixture
def complete(x64, chosen_policy):
    """``complete(init, max_iter=13, ...)`` of one small problem."""

    def run(init=None, policy="displacement", **options):
        options = {"penalty": chosen_policy(policy), "stop": ENDLESS, "max_iter": 13, "svt": "gram", **options}
        return complete_tensor(TENSOR, MASK, init=init, **options)

    return run


def assert_same_bits(a, b):
    drop = lambda result: (result.tensor, result.duals, result.rho, result.info, result.scale, result.state)  # noqa: E731
    for (path, x), y in zip(jax.tree.leaves_with_path(drop(a)), jax.tree.leaves(drop(b)), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    "policy",
    ["displacement", "displacement_per_block", "relative_residual", "residual", "norm_ratio", "spectral", "fixed"],
)
def test_two_runs_are_one_run_for_every_policy(complete, policy):
    # 13 is no multiple of a window, so that the policy's memory is needed.
    pieces = complete(complete(policy=policy), policy=policy)
    assert_same_bits(pieces, complete(policy=policy, max_iter=26))
    assert int(pieces.info.iterations) == 26


@pytest.mark.as_users_compile
def test_two_noisy_runs_with_rare_gap_checks_are_one_run(complete):
    options = {"lam": 0.1, "check_every": 5, "max_iter": 100}
    whole, part = complete(stop=Gap(1e-4), **options), complete(stop=Gap(1e-1), **options)
    assert bool(whole.info.converged)
    assert 0 < int(part.info.iterations) < int(whole.info.iterations)
    assert_same_bits(complete(part, stop=Gap(1e-4), **options), whole)


def test_converged_completion_stops_at_once_and_goes_on_for_a_tighter_tolerance(complete):
    loose, tight = Residual(3e-1, patience=None), Residual(3e-2, patience=None)
    rough, whole = complete(stop=loose, max_iter=26), complete(stop=tight, max_iter=26)
    assert bool(rough.info.converged)
    assert bool(whole.info.converged)
    assert_same_bits(complete(rough, stop=loose), rough)
    fine = complete(rough, stop=tight)
    assert int(fine.info.iterations) > int(rough.info.iterations)
    assert_same_bits(fine, whole)


def test_history_of_a_resumed_completion_is_the_rest(complete):
    whole = complete(max_iter=26).history.trim()
    rest = complete(complete()).history.trim()
    for name, values in rest.items():
        np.testing.assert_array_equal(values, whole[name][13:])


def test_completion_of_half_precision_data_resumes_in_single_precision():
    tensor = jnp.asarray(TENSOR, jnp.bfloat16)
    options = {"svt": "gram", "history": False}
    first, whole = (complete_tensor(tensor, MASK, tol=tol, **options) for tol in (1e-1, 1e-3))
    assert first.tensor.dtype == jnp.bfloat16
    assert_same_bits(complete_tensor(tensor, MASK, init=first, tol=1e-3, **options), whole)


def test_resuming_another_problem_is_refused_by_name(complete):
    first = complete()
    with pytest.raises(ValueError, match="init"):
        complete_tensor(TENSOR[:3], MASK[:3], init=first)
    with pytest.raises(ValueError, match="init"):
        complete_tensor(TENSOR, MASK, init=first, regularizer="tt")
    with pytest.raises(ValueError, match="init"):
        complete_tensor(TENSOR.astype(np.float32), MASK, init=first)

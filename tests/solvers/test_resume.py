"""Resuming a run: bit for bit the run that was never interrupted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.solvers import Gap, Geometric, RelativeResidual, Residual, Spectral, consensus_admm

ENDLESS = Residual(0.0, patience=None)


@pytest.fixture
def run(x64, problem):
    """``run(state, max_iter=10, ...)``: iterations from the start (state None) or from a state."""

    def go(state=None, **options):
        options = {"rho": 5.0, "stop": ENDLESS, "max_iter": 10, "history": False, **options}
        return consensus_admm(problem.blocks(), problem.data_term(), jnp.zeros((6, 4)), state=state, **options)[0]

    return go


def assert_same_bits(a, b):
    leaves = jax.tree.leaves_with_path(a._replace(history=None))
    for (path, x), y in zip(leaves, jax.tree.leaves(b._replace(history=None)), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def test_two_runs_are_one_run(run):
    # 13 is no multiple of the policy's window, so that its memory is needed.
    assert_same_bits(run(run(max_iter=13), max_iter=13), run(max_iter=26))


def test_two_runs_are_one_run_with_rare_checks_and_a_patience(run):
    options = {"check_every": 5, "stop": Gap(1e-3, patience=40)}
    whole = run(max_iter=40, **options)
    assert int(whole.status) == 1
    pieces = None
    for _ in range(4):
        pieces = run(pieces, max_iter=10, **options)
    assert_same_bits(pieces, whole)


@pytest.mark.as_users_compile
def test_vmapped_runs_resume_lane_by_lane(run, problem):
    def start(rho):
        return run(rho=rho, stop=Residual(1e-3), max_iter=10)

    def both(rho):
        return run(rho=rho, stop=Residual(1e-3), max_iter=20)

    rho = jnp.asarray([0.5, 5.0, 50.0])
    resumed = jax.vmap(lambda state: run(state, stop=Residual(1e-3), max_iter=10))(jax.vmap(start)(rho))
    assert_same_bits(resumed, jax.vmap(both)(rho))


def test_converged_state_stops_at_once_and_goes_on_for_a_tighter_tolerance(run, problem):
    rough = run(stop=Residual(1e-3), max_iter=500)
    again = run(rough, stop=Residual(1e-3), max_iter=500)
    fine = run(rough, stop=Residual(1e-10), max_iter=500)
    assert_same_bits(again, rough)
    assert int(fine.iter) > int(rough.iter)
    assert int(fine.status) == 1
    np.testing.assert_allclose(fine.x, problem.solution, atol=1e-8)
    assert_same_bits(fine, run(stop=Residual(1e-10), max_iter=500))


def test_looser_tolerance_accepts_a_state_as_it_is(run):
    fine = run(stop=Residual(1e-10), max_iter=500)
    assert int(run(fine, stop=Residual(1e-3), max_iter=500).iter) == int(fine.iter)


def test_another_stopping_rule_is_not_met_before_it_was_looked_at(run):
    rough = run(stop=Residual(1e-2), max_iter=500)
    certified = run(rough, stop=Gap(1e-2), max_iter=500)
    assert float(certified.residuals.gap) <= 1e-2


def test_penalty_stays_bounded_by_the_first_one_over_resumed_runs(run):
    state = None
    for _ in range(3):
        state = run(state, penalty=Geometric(10.0, 1e3), max_iter=2)
    np.testing.assert_allclose(state.rho, 5e3, rtol=1e-12)


@pytest.mark.parametrize("penalty", [Spectral(), Geometric(1.01), RelativeResidual()])
def test_resuming_under_another_policy_starts_its_memory_anew(run, problem, penalty):
    rough = run(stop=Residual(1e-2), max_iter=500)
    fine = run(rough, stop=Residual(1e-9), max_iter=5000, penalty=penalty)
    assert int(fine.status) == 1
    np.testing.assert_allclose(fine.x, problem.solution, atol=1e-6)

"""What a run records, and what it leaves blank."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.solvers import Gap, Residual, consensus_admm


class Distance(eqx.Module):
    """Distance to a point, and a count: metrics of a user."""

    point: jax.Array

    def __call__(self, x):
        """A float and an integer."""
        return {"distance": jnp.sqrt(jnp.sum((x - self.point) ** 2)), "zeros": jnp.sum(x == 0)}


@pytest.fixture
def solve(x64, problem):
    """``solve(metrics=...)`` on the shared problem."""

    def run(**options):
        options = {"rho": 2.0, "stop": Residual(1e-6), "max_iter": 120, **options}
        return consensus_admm(problem.blocks(), problem.data_term(), jnp.zeros((6, 4)), **options)

    return run


def test_history_is_nan_after_the_last_iteration_and_trim_cuts_it(solve):
    state, info = solve()
    n = int(info.iterations)
    assert 3 < n < 120
    trimmed = state.history.trim()
    assert set(state.history.keys()) == {"primal", "dual", "rho", "objective"} == set(trimmed)
    for name, values in trimmed.items():
        assert isinstance(values, np.ndarray)
        assert values.shape[0] == n
        assert state.history[name].shape[0] == 120
        assert np.isfinite(values).all(), name
        assert np.isnan(np.asarray(state.history[name])[n:]).all(), name
    assert trimmed["rho"].shape == (n, 2)


def test_metrics_of_the_user_are_recorded_at_every_iterate(solve, problem):
    metrics = Distance(jnp.asarray(problem.solution))
    state, info = solve(metrics=metrics)
    trimmed = state.history.trim()
    early, _ = solve(metrics=metrics, stop=Residual(0.1))
    for run in (early, state):
        k, x = int(run.iter), np.asarray(run.x)
        assert trimmed["distance"][k - 1] == pytest.approx(np.linalg.norm(x - problem.solution), rel=1e-9, abs=1e-14)
        assert trimmed["zeros"][k - 1] == np.sum(x == 0)
    assert int(early.iter) < int(info.iterations)


def test_objective_falls_to_the_optimum(solve, problem):
    objective = solve()[0].history.trim()["objective"]
    assert objective[-1] == pytest.approx(problem.optimum, rel=1e-5)


def test_gap_has_a_column_only_under_a_rule_that_needs_it(solve):
    assert "gap" not in solve()[0].history.keys()  # noqa: SIM118 (not a dict)
    assert "gap" in solve(stop=Gap(1e-3))[0].history.keys()  # noqa: SIM118


def test_without_history_there_is_none_and_the_result_is_the_same(solve):
    with_one, without = solve()[0], solve(history=False)[0]
    assert without.history is None
    np.testing.assert_array_equal(with_one.x, without.x)


def test_resumed_run_records_its_own_iterations_only(solve):
    rough, _ = solve(stop=Residual(1e-2))
    rest, _ = solve(state=rough)
    whole = solve()[0].history.trim()
    for name, values in rest.history.trim().items():
        np.testing.assert_array_equal(values, whole[name][int(rough.iter) :])


def test_converged_state_resumed_has_an_empty_history(solve):
    state, _ = solve()
    again, _ = solve(state=state)
    assert all(len(values) == 0 for values in again.history.trim().values())

"""When a run ends, and what it says about it: tolerance, gap, change, stall, divergence, iterations used up."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.solvers import Block, DataTerm, Fixed, Gap, Geometric, RelativeChange, Residual, consensus_admm
from jaxspec.solvers.loop import CONVERGED, DIVERGED, MAX_ITER, RUNNING, STALLED, stalled_at_rounding


@pytest.fixture
def solve(x64, problem):
    """``solve(stop=...)`` on the shared problem."""

    def run(**options):
        options = {"rho": 5.0, "max_iter": 400, **options}
        return consensus_admm(problem.blocks(), problem.data_term(), jnp.zeros((6, 4)), **options)

    return run


def first_below(values, tol):
    return int(np.argmax(np.asarray(values) <= tol)) + 1


def test_residual_stops_at_the_first_iteration_below_tol(solve):
    state, info = solve(stop=Residual(1e-7))
    history = state.history.trim()
    assert bool(info.converged)
    assert int(info.iterations) == first_below(np.maximum(history["primal"], history["dual"]), 1e-7)
    assert float(info.primal_residual) == history["primal"][-1]
    assert float(info.dual_residual) == history["dual"][-1]


def test_residuals_are_those_of_the_definition(solve, problem):
    before, after = None, None
    for _ in range(7):
        before = after
        after, info = solve(stop=Residual(0.0), max_iter=1, penalty=Fixed(), state=before)
    stack = lambda blocks: np.concatenate([np.ravel(block) for block in blocks])  # noqa: E731
    primal = np.linalg.norm(stack(after.y) - stack(after.ax))
    primal /= max(np.linalg.norm(stack(after.y)), np.linalg.norm(stack(after.ax)))
    dual = 5.0 * np.linalg.norm(stack(after.ax) - stack(before.ax)) / np.linalg.norm(stack(after.duals))
    assert float(info.primal_residual) == pytest.approx(primal, rel=1e-12)
    assert float(info.dual_residual) == pytest.approx(dual, rel=1e-12)
    change = np.linalg.norm(after.x - before.x) / np.linalg.norm(after.x)
    assert float(after.residuals.change) == pytest.approx(change, rel=1e-12)


def test_relative_change_stops_at_a_small_step(solve):
    rough, rough_info = solve(stop=RelativeChange(1e-2))
    fine, fine_info = solve(stop=RelativeChange(1e-4))
    assert bool(rough_info.converged)
    assert bool(fine_info.converged)
    assert 1e-4 < float(rough.residuals.change) <= 1e-2
    assert 0 < float(fine.residuals.change) <= 1e-4
    assert int(rough_info.iterations) < int(fine_info.iterations)


@pytest.mark.as_users_compile
@pytest.mark.parametrize("loop", ["while", "scan"])
def test_gap_is_looked_at_after_every_chunk_and_after_the_last_short_one(solve, loop):
    every, _ = solve(stop=Gap(1e-30, patience=None), max_iter=25, loop=loop)
    some, info = solve(stop=Gap(1e-30, patience=None), max_iter=25, check_every=10, loop=loop)
    gaps, rare = every.history.trim()["gap"], some.history.trim()["gap"]
    looked_at = np.isin(np.arange(1, 26), [10, 20, 25])
    np.testing.assert_array_equal(rare[looked_at], gaps[looked_at])
    assert np.isnan(rare[~looked_at]).all()
    assert float(info.gap) == gaps[-1]
    assert int(info.iterations) == 25
    assert int(info.status) == 0
    np.testing.assert_array_equal(every.x, some.x)


@pytest.mark.parametrize("stop", [Gap, Residual])
def test_rare_checks_stop_at_the_end_of_the_chunk_that_holds_the_first_success(solve, stop):
    _, info = solve(stop=stop(1e-5))
    _, rare = solve(stop=stop(1e-5), check_every=10)
    assert bool(rare.converged)
    assert int(rare.iterations) == -(-int(info.iterations) // 10) * 10


def test_gap_met_means_as_near_to_the_optimum(solve, problem):
    state, info = solve(stop=Gap(1e-6))
    x = np.asarray(state.x)
    norms = problem.l1 * np.abs(x).sum() + problem.l2 * np.linalg.norm(x, axis=-1).sum()
    value = 0.5 * np.sum((x - problem.target) ** 2) + norms
    assert 0 <= value - problem.optimum <= float(info.gap) * value + 1e-12
    assert float(info.gap) <= 1e-6


def test_iterations_used_up_is_no_exception(solve):
    state, info = solve(stop=Residual(1e-10), max_iter=1)
    assert not bool(info.converged)
    assert int(info.status) == 0
    assert int(info.iterations) == 1
    assert np.isfinite(np.asarray(state.x)).all()


def test_tolerance_below_the_precision_ends_as_stalled(problem):
    _, info = consensus_admm(
        problem.blocks(jnp.float32),
        problem.data_term(jnp.float32),
        jnp.zeros((6, 4)),
        rho=0.7,
        stop=Residual(1e-9),
        max_iter=2000,
    )
    assert int(info.status) == 2
    assert not bool(info.converged)
    assert 100 <= int(info.iterations) < 1000


def test_stall_is_called_when_the_best_did_not_fall_by_a_tenth_within_the_patience(solve):
    state, info = solve(stop=Residual(-1.0, patience=30), max_iter=2000)
    history = state.history.trim()
    measure = np.maximum(history["primal"], history["dual"])
    best, since = np.inf, 0
    for k, value in enumerate(measure, 1):
        if value < 0.9 * best:
            best, since = value, k
        if k - since >= 30:
            break
    assert int(info.status) == 2
    assert int(info.iterations) == k
    assert float(state.best) == best


def test_default_tolerance_follows_the_dtype(solve, problem):
    _, info = solve()
    assert 1e-8 < max(float(info.primal_residual), float(info.dual_residual)) <= 1e-6
    single = [jnp.float32]
    _, info = consensus_admm(
        problem.blocks(*single), problem.data_term(*single), jnp.zeros((6, 4), jnp.float32), rho=5.0
    )
    assert 1e-7 < max(float(info.primal_residual), float(info.dual_residual)) <= 1e-5


class Explosive(NamedTuple):
    """A one-block problem whose prox returns NaN once the penalty exceeds a limit."""

    limit: float

    def run(self, **options):
        """Penalty doubles every iteration from 1: iteration k uses 2^(k-1)."""
        one = jnp.asarray(1.0)
        block = Block(same, same, exploding, absolute, None, one, jnp.asarray(self.limit))
        target = jnp.asarray([[3.0, -2.0], [0.5, 1.0]])
        return consensus_admm(
            [block], DataTerm.quadratic(target, jnp.ones((2, 2))), target, rho=1.0, penalty=Geometric(2.0), **options
        )


def same(data, x):
    return x


def absolute(data, y):
    return jnp.sum(jnp.abs(y))


def exploding(data, v, step):
    y = jnp.sign(v) * jnp.maximum(jnp.abs(v) - step, 0)
    return jnp.where(1 / step > data, jnp.nan, y), absolute(None, y)


@pytest.mark.parametrize("loop", ["while", "scan"])
def test_divergence_keeps_the_last_finite_iterate(x64, loop):
    options = {"stop": Residual(0.0, patience=None), "loop": loop}
    good, _ = Explosive(1e300).run(max_iter=4, stop=Residual(0.0, patience=None))
    bad, info = Explosive(10.0).run(max_iter=20, **options)  # 2^4 > 10: the fifth iteration
    assert int(info.status) == 3
    assert not bool(info.converged)
    assert int(info.iterations) == 5
    np.testing.assert_array_equal(bad.x, good.x)
    assert np.isfinite(np.asarray(bad.rho)).all()


def test_divergence_within_a_chunk_masks_the_rest_of_the_chunk(x64):
    options = {"stop": Residual(0.0, patience=None), "check_every": 8}
    good, _ = Explosive(1e300).run(max_iter=4, stop=Residual(0.0, patience=None))
    bad, info = Explosive(10.0).run(max_iter=20, **options)
    assert int(info.status) == 3
    np.testing.assert_array_equal(bad.x, good.x)
    assert int(info.iterations) == 5


def test_diverged_state_stays_so_when_resumed(x64):
    bad, _ = Explosive(10.0).run(max_iter=20)
    again, info = Explosive(10.0).run(max_iter=20, state=bad)
    assert int(info.status) == 3
    np.testing.assert_array_equal(again.x, bad.x)


def test_divergence_of_one_lane_leaves_the_others_alone(x64):
    def one(limit):
        state, info = Explosive(limit).run(max_iter=12, stop=Residual(0.0, patience=None))
        return state.x, info.status

    x, status = jax.vmap(one)(jnp.asarray([10.0, 1e300]))
    assert status.tolist() == [3, 0]
    np.testing.assert_array_equal(x[1], one(1e300)[0])


def test_only_a_run_that_used_up_its_iterations_stalls_at_rounding():
    gap = jnp.array([1e-4, 2e-4, 1e-4, 1e-4, jnp.nan], jnp.float32)
    status = jnp.array([RUNNING, RUNNING, CONVERGED, DIVERGED, RUNNING], jnp.int32)
    expected = [STALLED, MAX_ITER, CONVERGED, DIVERGED, MAX_ITER]
    assert stalled_at_rounding(status, gap).tolist() == expected

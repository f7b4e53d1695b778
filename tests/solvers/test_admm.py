"""The consensus ADMM on a problem with a closed form: solution, transformations, user-written parts, bad arguments."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.solvers import (
    Block,
    DataTerm,
    Displacement,
    Fixed,
    Gap,
    RelativeResidual,
    Residual,
    ResidualBalance,
    consensus_admm,
)
from jaxspec.solvers.admm import certificate


@pytest.fixture
def solve(x64, problem):
    """``solve(penalty=...)`` on the shared problem."""

    def run(x0=None, data_term=None, blocks=None, **options):
        x0 = jnp.zeros(problem.target.shape) if x0 is None else x0
        options = {"rho": 1.0, "stop": Residual(1e-12), "max_iter": 1000, **options}
        return consensus_admm(blocks or problem.blocks(), data_term or problem.data_term(), x0, **options)

    return run


class Halving(eqx.Module):
    """A user's policy: rho halves every ``period`` iterations, four times."""

    period: int = eqx.field(static=True)

    def init(self, rho, ax, duals):
        """Counts the halvings."""
        return jnp.zeros((), jnp.int32)

    def update(self, memory, step):
        """Half of rho at the end of a period."""
        due = (step.k % self.period == 0) & (memory < 4)
        return jnp.where(due, step.rho / 2, step.rho), memory + due


class SmallSum(eqx.Module):
    """A user's stopping rule: primal + dual residual."""

    tol: float
    patience = None
    certified = False

    def measure(self, residuals):
        """The sum."""
        return residuals.primal + residuals.dual


@pytest.mark.parametrize("rho", [0.01, 1.0, 100.0, np.array([0.5, 2.0])], ids=["small", "one", "large", "per_block"])
def test_solution_is_the_closed_form(solve, problem, rho):
    state, info = solve(rho=rho)
    assert bool(info.converged)
    np.testing.assert_allclose(state.x, problem.solution, atol=1e-10)
    assert float(info.objective) == pytest.approx(problem.optimum, rel=1e-10)


@pytest.mark.parametrize("over_relaxation", [0.5, 1.0, 1.5, 1.9])
def test_solution_does_not_depend_on_over_relaxation(solve, problem, over_relaxation):
    state, info = solve(over_relaxation=over_relaxation)
    assert bool(info.converged)
    np.testing.assert_allclose(state.x, problem.solution, atol=1e-10)


@pytest.mark.parametrize(
    "penalty",
    [
        Fixed(),
        Displacement(per_block=True),
        RelativeResidual(per_block=True),
        ResidualBalance(per_block=True),
        Halving(10),
    ],
    ids=lambda penalty: type(penalty).__name__,
)
def test_policies_of_ours_and_of_a_user_reach_the_solution(solve, problem, penalty):
    state, info = solve(penalty=penalty, rho=3.0)
    assert bool(info.converged)
    np.testing.assert_allclose(state.x, problem.solution, atol=1e-10)


def test_a_users_policy_decides_the_penalties(solve):
    state, _ = solve(penalty=Halving(3), rho=np.array([8.0, 16.0]), stop=Residual(0.0, patience=None), max_iter=20)
    rho = state.history.trim()["rho"]
    halvings = np.minimum((np.arange(20) + 1) // 3, 4)[:, None]
    np.testing.assert_array_equal(rho, np.array([8.0, 16.0]) / 2.0**halvings)
    assert int(state.memory) == 4


def test_a_users_stopping_rule_decides_the_end(solve):
    state, info = solve(stop=SmallSum(1e-3))
    history = state.history.trim()
    sums = history["primal"] + history["dual"]
    assert sums[-1] <= 1e-3
    assert (sums[:-1] > 1e-3).all()
    assert bool(info.converged)


def test_certificate_bounds_the_optimum_from_both_sides(solve, problem):
    state, _ = solve(stop=Residual(1e-3))
    primal, dual = certificate(problem.blocks(), problem.data_term(), state.x, state.duals)
    assert float(dual) <= problem.optimum + 1e-12
    assert float(primal) >= problem.optimum - 1e-12
    assert float(primal - dual) <= 0.1 * problem.optimum
    _, info = solve(stop=Gap(1e-9))
    assert bool(info.converged)
    assert 0 <= float(info.gap) <= 1e-9


def test_scaled_blocks_are_the_blocks_of_the_scaled_norms(solve, problem, sparse_groups):
    state, _ = solve(blocks=[block.scaled(0.5) for block in problem.blocks()])
    halved = sparse_groups(problem.target, problem.l1 / 2, problem.l2 / 2)
    np.testing.assert_allclose(state.x, halved.solution, atol=1e-10)


def test_ridge_shrinks_the_solution_as_its_closed_form_says(solve, problem, sparse_groups):
    weights, ridge = jnp.full(problem.target.shape, 0.7), 0.3
    state, _ = solve(data_term=DataTerm.quadratic(jnp.asarray(problem.target), weights, ridge))
    # 0.7/2 (x - t)^2 + 0.3/2 x^2 = 1/2 (x - 0.7 t)^2 + const
    equivalent = sparse_groups(0.7 * problem.target, problem.l1, problem.l2)
    np.testing.assert_allclose(state.x, equivalent.solution, atol=1e-10)


def first_row(data, x):
    return x[:1]


def from_first_row(data, y):
    return jnp.concatenate([y, jnp.zeros_like(y)])


def half_square(data, y):
    return 0.5 * jnp.sum(y**2)


def shrink(data, v, step):
    y = v / (1 + step)
    return y, half_square(data, y)


def test_entry_in_no_block_keeps_the_data_where_weighed_and_its_start_elsewhere(x64):
    target = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    first = Block(first_row, from_first_row, shrink, half_square, None, jnp.asarray([[1.0], [0.0]]), ())
    data_term = DataTerm.quadratic(target, jnp.asarray([[1.0, 1.0], [1.0, 0.0]]))
    state, info = consensus_admm([first], data_term, jnp.full((2, 2), 7.0), rho=1.0, stop=Residual(1e-12))
    assert bool(info.converged)
    np.testing.assert_allclose(state.x, [[0.5, 1.0], [3.0, 7.0]], atol=1e-11)


def test_vmap_over_data_and_norms_is_a_loop(solve, problem):
    rng = np.random.default_rng(1)
    targets, factors = jnp.asarray(rng.standard_normal((3, 6, 4)) * 3), jnp.asarray([0.5, 1.0, 2.0])

    def one(target, factor):
        blocks = [block.scaled(factor) for block in problem.blocks()]
        data_term = DataTerm.quadratic(target, jnp.ones_like(target))
        state, info = consensus_admm(blocks, data_term, target, rho=1.0, stop=Residual(1e-9), max_iter=300)
        return state.x, info.iterations, info.status, state.history["primal"]

    together = jax.vmap(one)(targets, factors)
    assert len(set(together[1].tolist())) > 1, "the lanes should stop at different iterations"
    for k in range(3):
        for lane, alone in zip(together, one(targets[k], factors[k]), strict=True):
            np.testing.assert_allclose(lane[k], alone, rtol=1e-12, atol=1e-14, equal_nan=True)


@pytest.mark.parametrize("check_every", [1, 7])
def test_scan_is_while_bit_for_bit(solve, check_every):
    options = {"stop": Residual(1e-6), "max_iter": 60, "check_every": check_every}
    runs = [solve(loop=loop, **options) for loop in ("while", "scan")]
    for a, b in zip(*(jax.tree.leaves(run) for run in runs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_reverse_mode_through_scan_and_forward_mode_through_while_match_the_closed_form(solve, problem):
    target = jnp.asarray(problem.target)

    def total(target, factor, loop):
        state, _ = consensus_admm(
            [block.scaled(factor) for block in problem.blocks()],
            DataTerm.quadratic(target, jnp.ones_like(target)),
            jnp.zeros_like(target),
            rho=1.0,
            stop=Residual(0.0, patience=None),
            max_iter=200,
            history=False,
            loop=loop,
        )
        return jnp.sum(jnp.sin(state.x))

    def closed(target, factor):
        inner = jnp.sign(target) * jnp.maximum(jnp.abs(target) - problem.l1 * factor, 0)
        norms = jnp.sqrt(jnp.sum(inner**2, axis=-1, keepdims=True) + 1e-300)
        return jnp.sum(jnp.sin(inner * jnp.maximum(1 - problem.l2 * factor / norms, 0)))

    factor, direction = jnp.asarray(1.0), jnp.asarray(np.random.default_rng(2).standard_normal(target.shape))
    expected = jax.grad(closed, (0, 1))(target, factor)
    for found, wanted in zip(jax.grad(total, (0, 1))(target, factor, "scan"), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-8)
    _, forward = jax.jvp(lambda t, f: total(t, f, "while"), (target, factor), (direction, jnp.asarray(0.5)))
    assert float(forward) == pytest.approx(float(jnp.vdot(expected[0], direction) + 0.5 * expected[1]), abs=1e-8)


def test_scaled_duals_start_the_run(solve, problem):
    state, _ = solve()
    warm, info = solve(x0=state.x, u0=state.u, rho=state.rho)
    assert int(info.iterations) <= 2
    np.testing.assert_allclose(warm.x, problem.solution, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"over_relaxation": 0}, r"over_relaxation is 0; expected a number in \(0, 2\)"),
        ({"over_relaxation": 2.0}, r"over_relaxation is 2.0; expected a number in \(0, 2\)"),
        ({"over_relaxation": jnp.float32(3)}, r"over_relaxation is 3.0; expected a number in \(0, 2\)"),
        ({"over_relaxation": np.nan}, "over_relaxation is nan; expected a number in"),
        ({"rho": 0.0}, "rho is 0.0; expected a finite number > 0"),
        ({"rho": -1}, "rho is -1; expected a finite number > 0"),
        ({"rho": np.array([1.0, -1.0])}, "rho is .*; expected finite numbers > 0"),
        ({"rho": np.ones(3)}, r"rho has shape \(3,\); expected a number or"),
        ({"max_iter": -1}, "max_iter is -1; expected an integer >= 0"),
        ({"check_every": 0}, "check_every is 0; expected an integer >= 1"),
        ({"loop": "for"}, "loop is 'for'; expected one of"),
        (
            {"u0": [np.zeros((6, 4)), np.zeros((6, 3))]},
            r"dual 1 has shape \(6, 3\); expected that of its block, \(6, 4\)",
        ),
        ({"u0": [np.zeros((6, 4))]}, "u0 has 1 arrays; expected 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_bad_arguments_are_named(solve, options, message):
    options = {k: [jnp.asarray(u) for u in v] if k == "u0" else v for k, v in options.items()}
    with pytest.raises(ValueError, match=message):
        solve(**options)


def test_no_blocks_and_integer_starts_are_refused(problem):
    with pytest.raises(ValueError, match="blocks is empty"):
        consensus_admm([], problem.data_term(), jnp.zeros((6, 4)), rho=1.0)
    with pytest.raises(TypeError, match="x0"):
        consensus_admm(problem.blocks(), problem.data_term(), jnp.zeros((6, 4), int), rho=1.0)


def test_gap_needs_gauges(solve, problem):
    first, second = problem.blocks()
    bare = Block(second.gather, second.scatter, second.prox, second.value, None, second.count, second.data)
    with pytest.raises(ValueError, match="block 1 has no gauge; expected one in every block"):
        solve(blocks=[first, bare], stop=Gap(1e-6))


@pytest.mark.parametrize("history", [True, False])
def test_no_iterations_return_the_start(solve, history):
    state, info = solve(x0=jnp.full((6, 4), 3.0), max_iter=0, history=history)
    np.testing.assert_array_equal(state.x, 3.0)
    assert int(info.iterations) == 0
    assert not bool(info.converged)

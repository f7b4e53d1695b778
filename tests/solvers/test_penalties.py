"""Every penalty policy against its formula, written again in NumPy, on steps made by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.solvers import (
    Displacement,
    Fixed,
    Geometric,
    NormRatio,
    RelativeResidual,
    ResidualBalance,
    Spectral,
    consensus_admm,
)
from jaxspec.solvers.penalties import Step

SHAPES = ((2, 3), (4,))
RHO = np.array([0.5, 2.0])


def draw(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return tuple(scale * rng.standard_normal(shape) for shape in SHAPES)


def make_step(k, rho=RHO, *, move=1.0, off=1.0, dual_move=1.0):
    """A step whose x moves by ``move``, whose y is ``off`` from A x, and whose duals move by ``dual_move``."""
    ax_old, duals_old = draw(1), draw(2)
    ax = tuple(a + d for a, d in zip(ax_old, draw(3, move), strict=True))
    y = tuple(a + d for a, d in zip(ax, draw(4, off), strict=True))
    duals = tuple(a + d for a, d in zip(duals_old, draw(5, dual_move), strict=True))
    as_jax = lambda blocks: tuple(map(jnp.asarray, blocks))  # noqa: E731
    return Step(jnp.asarray(k, jnp.int32), jnp.asarray(rho), *map(as_jax, (ax_old, ax, y, duals_old, duals)))


def norms(blocks, others=None):
    others = [0] * len(blocks) if others is None else others
    return np.array([np.linalg.norm(np.asarray(a) - np.asarray(b)) for a, b in zip(blocks, others, strict=True)])


def together(values, per_block):
    return values if per_block else np.linalg.norm(values)


@pytest.fixture(autouse=True)
def _double(x64):
    """Formulas are compared in double precision."""


compiled = jax.jit(lambda policy, memory, step: policy.update(memory, step))


def update(policy, step, memory=None):
    memory = policy.init(step.rho, step.ax_old, step.duals_old) if memory is None else memory
    rho, memory = compiled(policy, memory, step)
    return np.asarray(rho), memory


def test_fixed_keeps_rho():
    np.testing.assert_array_equal(update(Fixed(), make_step(3))[0], RHO)


def test_geometric_grows_rho_up_to_a_multiple_of_the_first():
    step = make_step(3)
    np.testing.assert_allclose(update(Geometric(1.05), step)[0], 1.05 * RHO, rtol=1e-15)
    first = jnp.asarray(RHO / 4)
    np.testing.assert_allclose(update(Geometric(1.5, 5.0), step, first)[0], 1.25 * RHO, rtol=1e-15)
    np.testing.assert_allclose(update(Geometric(1.5, np.array([5.0, 9.0])), step, first)[0], RHO * [1.25, 1.5])
    np.testing.assert_allclose(update(Geometric(1.5, 0.1), step, jnp.asarray(RHO))[0], RHO, rtol=1e-15)


@pytest.mark.parametrize("per_block", [False, True])
@pytest.mark.parametrize(("move", "off"), [(1.0, 100.0), (100.0, 0.01), (1.0, 1.0)], ids=["up", "down", "keep"])
def test_residual_balance_compares_absolute_residuals(per_block, move, off):
    step = make_step(5, move=move, off=off)
    primal = together(norms(step.y, step.ax), per_block)
    dual = together(RHO * norms(step.ax, step.ax_old), per_block)
    factor = np.where(primal > 10 * dual, 2, np.where(dual > 10 * primal, 0.5, 1))
    np.testing.assert_allclose(update(ResidualBalance(per_block=per_block), step)[0], RHO * factor, rtol=1e-15)


@pytest.mark.parametrize("per_block", [False, True])
@pytest.mark.parametrize(("move", "off"), [(0.1, 100.0), (30.0, 0.01), (1.0, 1.0)], ids=["up", "down", "keep"])
def test_relative_residual_compares_relative_residuals(per_block, move, off):
    step = make_step(5, move=move, off=off)
    primal = together(norms(step.y, step.ax), per_block)
    primal = primal / np.maximum(together(norms(step.y), per_block), together(norms(step.ax), per_block))
    dual = together(RHO * norms(step.ax, step.ax_old), per_block) / together(norms(step.duals), per_block)
    factor = np.where(primal > 3 * dual, 4, np.where(dual > 3 * primal, 0.25, 1))
    policy = RelativeResidual(mu=3.0, factor=4.0, per_block=per_block)
    np.testing.assert_allclose(update(policy, step)[0], RHO * factor, rtol=1e-15)


@pytest.mark.parametrize("policy", [ResidualBalance, RelativeResidual])
def test_residual_policies_stop_adapting_after_adapt_until(policy):
    assert (update(policy(), make_step(200, off=1e6, move=1e-6))[0] == 2 * RHO).all()
    assert (update(policy(), make_step(201, off=1e6, move=1e-6))[0] == RHO).all()
    assert (update(policy(adapt_until=7), make_step(8, off=1e6, move=1e-6))[0] == RHO).all()


@pytest.mark.parametrize("per_block", [False, True])
@pytest.mark.parametrize("k", [5, 20])
@pytest.mark.parametrize("dual_move", [1e-6, 0.3, 3.0, 1e6])
def test_displacement_pulls_rho_to_the_ratio_of_the_displacements(per_block, k, dual_move):
    step = make_step(k, dual_move=dual_move)
    rho, memory = update(Displacement(per_block=per_block), step)
    moved = together(norms(step.duals, step.duals_old), per_block)
    log_ratio = np.log(moved / together(RHO * norms(step.ax, step.ax_old), per_block))
    bound = 8 / (k / 5) ** 1.5
    change = np.where(np.abs(log_ratio) <= np.log(1.2), 0, np.clip(0.7 * log_ratio, -bound, bound))
    np.testing.assert_allclose(rho, RHO * np.exp(change), rtol=1e-13)
    for kept, now in zip(memory[0] + memory[1], step.ax + step.duals, strict=True):
        np.testing.assert_array_equal(kept, now)


def test_displacement_leaves_rho_within_the_deadband_and_between_windows():
    step = make_step(5)
    balanced = norms(step.duals, step.duals_old) / norms(step.ax, step.ax_old)
    inside = step._replace(rho=jnp.asarray(balanced * np.array([1.1, 1 / 1.1])))
    np.testing.assert_array_equal(update(Displacement(per_block=True), inside)[0], inside.rho)
    rho, memory = update(Displacement(), make_step(4, dual_move=1e3))
    np.testing.assert_array_equal(rho, RHO)
    np.testing.assert_array_equal(memory[0][0], make_step(4).ax_old[0])


@pytest.mark.parametrize("policy", [Displacement(), Displacement(per_block=True), NormRatio(), Spectral()], ids=str)
def test_no_displacement_or_an_infinite_one_leaves_rho(policy):
    still = make_step(10, move=0.0, off=0.0, dual_move=0.0)
    zero = tuple(jnp.zeros(shape) for shape in SHAPES)
    still = still._replace(duals=zero, duals_old=zero, y=still.ax_old)
    infinite = still._replace(duals=tuple(jnp.full(shape, jnp.inf) for shape in SHAPES))
    for step in (still, infinite):
        np.testing.assert_array_equal(update(policy, step)[0], RHO)


@pytest.mark.parametrize("per_block", [False, True])
def test_norm_ratio_averages_with_a_falling_weight(per_block):
    step = make_step(30)
    omega = 2 ** (-30 / 50)
    factor = together(norms(step.duals), per_block) / together(RHO * norms(step.ax), per_block)
    np.testing.assert_allclose(
        update(NormRatio(per_block=per_block), step)[0], RHO * (1 - omega + omega * factor), rtol=1e-13
    )


def slope(p, q):
    """Barzilai-Borwein slope and correlation of two stacked blocks."""
    pp, qq, pq = p @ p, q @ q, p @ q
    steepest, minimal = pp / pq, pq / qq
    return (minimal if 2 * minimal > steepest else steepest - minimal / 2), pq / np.sqrt(pp * qq)


@pytest.mark.parametrize("k", [2, 3, 4, 20])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)], ids=["both", "first", "second", "neither"])
def test_spectral_takes_the_slopes_it_can_trust(k, signs):
    step = make_step(k, np.array([0.5, 2.0]))
    stack = lambda blocks: np.concatenate([np.ravel(block) for block in blocks])  # noqa: E731
    now = [stack(blocks) for blocks in (step.subgradients, step.y, step.duals, step.ax)]
    # Displacements with slopes near 3 and 5, or of the wrong sign.
    rng = np.random.default_rng(k)
    dy, dax = rng.standard_normal((2, 10))
    dsub = signs[0] * 3 * (dy + 0.3 * rng.standard_normal(10))
    ddual = -signs[1] * 5 * (dax + 0.3 * rng.standard_normal(10))
    old = [a - d for a, d in zip(now, (dsub, dy, ddual, dax), strict=True)]
    unstack = lambda flat: (jnp.asarray(flat[:6].reshape(2, 3)), jnp.asarray(flat[6:]))  # noqa: E731
    rho, memory = update(Spectral(), step, tuple(unstack(part) for part in old))

    (a, a_trust), (b, b_trust) = slope(dsub, dy), slope(-ddual, dax)
    usable = [value for value, trust in ((a, a_trust), (b, b_trust)) if trust > 0.2]
    assert len(usable) == sum(sign > 0 for sign in signs)
    target = np.exp(np.mean(np.log(usable))) if usable else 1.0  # 1 is the geometric mean of rho
    limit = 1 + 100 / k**2
    factor = np.clip(target, 1 / limit, limit) if k % 2 == 0 and k >= 4 else 1.0
    np.testing.assert_allclose(rho, RHO * factor, rtol=1e-12)
    expected = now if k % 2 == 0 else old
    for kept, wanted in zip(memory, expected, strict=True):
        np.testing.assert_allclose(stack(kept), wanted, rtol=1e-14)


def test_subgradients_of_a_step_follow_their_definition():
    step = make_step(1)
    for i, found in enumerate(step.subgradients):
        expected = RHO[i] * (np.asarray(step.ax_old[i]) - np.asarray(step.y[i])) + np.asarray(step.duals_old[i])
        np.testing.assert_allclose(found, expected, rtol=1e-15)


class Times(eqx.Module):
    """A user's policy: rho is multiplied by a factor every iteration."""

    factor: float

    def init(self, rho, ax, duals):
        """No memory."""
        return ()

    def update(self, memory, step):
        """The product."""
        return step.rho * self.factor, memory


class BoldTimes(Times):
    """The same with bounds of its own."""

    limit = 50.0


def test_engine_bounds_rho_and_ignores_one_that_is_not_finite(problem):
    def rho_after(penalty, rho=1.0):
        state, _ = consensus_admm(
            problem.blocks(), problem.data_term(), jnp.zeros((6, 4)), rho=rho, penalty=penalty, max_iter=3
        )
        return np.asarray(state.rho)

    np.testing.assert_allclose(rho_after(Times(1e5)), 1e6, rtol=1e-15)
    np.testing.assert_allclose(rho_after(Times(1e-5)), 1e-6, rtol=1e-15)
    np.testing.assert_allclose(rho_after(BoldTimes(10.0)), 50, rtol=1e-15)
    np.testing.assert_allclose(rho_after(BoldTimes(0.1)), 1 / 50, rtol=1e-15)
    np.testing.assert_array_equal(rho_after(Times(float("nan")), np.array([1.0, 3.0])), [1.0, 3.0])

"""Consensus ADMM for ``min_x g(x) + sum_i f_i(A_i x)`` with diagonal A_i^T A_i: the engine of every completion method.

One iteration, with scaled duals u_i = -W_i / rho_i and relaxation kappa:

    y_i  = prox_{f_i / rho_i}(A_i x - u_i)
    h_i  = kappa y_i + (1 - kappa) A_i x
    x+   = argmin_x g(x) + 1/2 sum_j d_j (x_j - v_j)^2,  d = sum_i rho_i c_i,  v = (sum_i rho_i A_i^T (h_i + u_i)) / d
    u_i+ = u_i + h_i - A_i x+

After every iteration, for any relaxation and penalties, ``sum_i A_i^T W_i = -grad g(x+)`` to rounding. The state
carries W (not u), so a change of penalty touches no array.

Reference: Boyd et al., "Distributed optimization and statistical learning via ADMM", 2011; the adaptive penalty follows
"Low rank tensor completion via adaptive ADMM", 2026.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.checks import check_numbers
from jaxspec.linalg import ordered
from jaxspec.linalg.scaling import safe_divide
from jaxspec.solvers.loop import (
    CONVERGED,
    DIVERGED,
    EMPTY,
    RUNNING,
    History,
    as_traced,
    best_so_far,
    check_loop_arguments,
    empty_history,
    iterate,
    stalled_at_rounding,
)
from jaxspec.solvers.penalties import Displacement, Step, block_norms, limit_of, sum_of_squares
from jaxspec.solvers.problem import Block, DataTerm
from jaxspec.solvers.state import ADMMInfo, ADMMState, initial_state
from jaxspec.solvers.stopping import Residual, Residuals, default_tol, safe_ratio

Metrics = Callable[[Array], dict[str, Array]]


def consensus_admm(
    blocks: Sequence[Block],
    data_term: DataTerm,
    x0: Float[Array, "..."],
    *,
    rho: Any,
    over_relaxation: Any = 1.6,
    penalty: Any = Displacement(),  # noqa: B008 (frozen)
    stop: Any = Residual(),  # noqa: B008 (frozen)
    check_every: int = 1,
    max_iter: int = 500,
    u0: Sequence[Array] | None = None,
    state: ADMMState | None = None,
    metrics: Metrics | None = None,
    history: bool = True,
    loop: str = "while",
) -> tuple[ADMMState, ADMMInfo]:
    """Solves ``min_x g(x) + sum_i f_i(A_i x)`` by over-relaxed ADMM with adaptive penalties.

    Scale the data to about 1 before: norms of the whole iterate are formed. Memory: x, and per block A_i x, y_i and W_i
    (twice A_i x and W_i with a policy that remembers them).

    Args:
        blocks: the f_i(A_i x).
        data_term: g.
        x0: initial x; floating.
        rho: first penalties, scalar or (m,), > 0.
        over_relaxation: kappa in (0, 2); traced.
        penalty: policy (`jaxspec.solvers.penalties`); its Python numbers are traced.
        stop: stopping rule (`Residual`, `Gap`, `RelativeChange`); its tolerance is traced.
        check_every: iterations between two looks at the stopping rule (static).
        max_iter: iterations to do at most in this call (static).
        u0: initial scaled duals u_i = -W_i / rho_i, one per block; None: 0.
        state: a state to resume bit for bit; x0, rho and u0 are then ignored, and the run ends at once if the state
            already meets ``stop``. Under another policy its memory starts anew.
        metrics: ``x -> dict of scalars`` recorded every iteration; a module-level function or an `equinox.Module`.
        history: whether to record residuals, rho, the objective and the metrics.
        loop: ``"while"`` or ``"scan"`` (fixed length, reverse-mode differentiable; the penalties count as constants).

    Returns:
        The state and the info. A run that did not converge says so in ``info.status``; nothing is raised.

    Raises:
        ValueError: for an argument out of range that can be seen before tracing.
    """
    check_loop_arguments(max_iter, check_every, loop)
    _check_arguments(blocks, rho, u0, over_relaxation)
    dtype = jnp.result_type(x0 if state is None else state.x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"x0 has dtype {dtype}; expected a real floating one")
    penalty = as_traced(penalty, dtype)
    stop = eqx.tree_at(lambda rule: rule.tol, stop, default_tol(stop.tol, dtype), is_leaf=lambda leaf: leaf is None)
    if state is None:
        state = initial_state(blocks, x0, rho=rho, penalty=penalty, u0=u0)
    else:
        state = _with_memory(state, penalty)
    kappa = jnp.asarray(over_relaxation, dtype)
    problem = _Problem(tuple(blocks), data_term, kappa, penalty, stop, metrics, state.iter)
    return _run(problem, state, _Static(max_iter, check_every, loop, history))


def certificate(
    blocks: Sequence[Block], data_term: DataTerm, x: Float[Array, "..."], duals: Sequence[Array]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Primal value at x and a lower bound of the optimum: ``g(x) + sum_i f_i(A_i x) >= min_z g(z) + <V, z>``.

    V = theta sum_i A_i^T W_i with theta = min(1, 1 / max_i gauge_i(W_i)), one factor for all so that the support stays.
    First every W_i gives up its share ``A_i(R / sum_k c_k)`` of the part R of the sum for which the bound would be
    -infinity (rounding for the engine's own duals; more for duals from elsewhere).

    Args:
        blocks: the f_i(A_i x); each needs a gauge.
        data_term: g.
        x: a feasible point.
        duals: W_i, one per block.

    Returns:
        The pair (primal, dual); their difference is at least the distance of ``primal`` from the optimum.

    Raises:
        ValueError: for a block without a gauge.
    """
    total = sum(block.scatter(block.data, w) for block, w in zip(blocks, duals, strict=True))
    duals = without_excess(blocks, duals, data_term.excess(data_term.data, total))
    primal = data_term.value(data_term.data, x)
    gauges, total, after = [], jnp.zeros_like(x), primal
    for index, (block, w) in enumerate(zip(blocks, duals, strict=True)):
        if block.gauge is None:
            raise ValueError(f"block {index} has no gauge; expected one in every block for a certificate")
        value = block.value(block.data, ordered(block.gather(block.data, x), after))
        gauges.append(block.gauge(block.data, ordered(w, value)))
        after = gauges[-1]
        primal = primal + value
        total = total + block.scatter(block.data, w)
    theta = 1 / jnp.maximum(1, jnp.max(jnp.stack(gauges)))
    v = total - data_term.excess(data_term.data, total)
    return primal, data_term.dual(data_term.data, theta * v)


def without_excess(
    blocks: Sequence[Block], duals: Sequence[Array], excess: Float[Array, "..."]
) -> tuple[Float[Array, "..."], ...]:
    """Duals moved by the least amount that takes ``excess`` out of ``sum_i A_i^T W_i``.

    Args:
        blocks: the f_i(A_i x).
        duals: W_i, one per block.
        excess: x-shaped.

    Returns:
        ``W_i - A_i (excess / sum_k c_k)``.
    """
    count = sum(block.count.astype(excess.dtype) for block in blocks)
    share = jnp.where(count == 0, 0, excess / jnp.where(count == 0, 1, count))
    return tuple(w - block.gather(block.data, share) for block, w in zip(blocks, duals, strict=True))


def _with_memory(state: ADMMState, penalty: Any) -> ADMMState:
    """State with a memory that this policy can go on with: its own, or a fresh one after another policy."""
    fresh = jax.eval_shape(penalty.init, state.rho, state.ax, state.duals)
    form = lambda tree: jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)  # noqa: E731
    if jax.tree.structure(fresh) == jax.tree.structure(state.memory) and form(fresh) == form(state.memory):
        return state
    return state._replace(memory=penalty.init(state.rho, state.ax, state.duals))


class _Static(NamedTuple):
    max_iter: int
    check_every: int
    loop: str
    history: bool


class _Problem(NamedTuple):
    blocks: tuple[Block, ...]
    data_term: DataTerm
    over_relaxation: Array
    penalty: Any
    stop: Any
    metrics: Metrics | None
    first_iter: Array


@eqx.filter_jit
def _run(problem: _Problem, state: ADMMState, static: _Static) -> tuple[ADMMState, ADMMInfo]:
    data_term = problem.data_term
    # A resumed state is judged by the rule it now gets, which may never have looked at it.
    state = _with_status(state._replace(measure=problem.stop.measure(state.residuals)), problem.stop)
    state = state._replace(history=_blank_history(problem, state, static) if static.history else None)
    state = iterate(
        lambda state: _step(problem, state),
        lambda state: _test(problem, state),
        state,
        max_iter=static.max_iter,
        check_every=static.check_every,
        loop=static.loop,
    )
    info = ADMMInfo(
        iterations=state.iter,
        converged=state.status == CONVERGED,
        status=state.status,
        primal_residual=state.residuals.primal,
        dual_residual=state.residuals.dual,
        rho=state.rho,
        objective=state.value + data_term.value(data_term.data, state.x),
        gap=state.residuals.gap,
    )
    return state, info


def _step(problem: _Problem, state: ADMMState) -> ADMMState:
    blocks, data_term, kappa = problem.blocks, problem.data_term, problem.over_relaxation
    x, rho, k = state.x, state.rho, state.iter + 1
    y, values, v, d = [], [], jnp.zeros_like(x), jnp.zeros((), x.dtype)
    for i, block in enumerate(blocks):
        centre = state.ax[i] + state.duals[i] / rho[i]
        # One LAPACK-backed factorisation at a time: two independent ones in a loop can stall the CPU backend.
        y_i, value = block.prox(block.data, ordered(centre, y[-1]) if y else centre, 1 / rho[i])
        h = kappa * y_i + (1 - kappa) * state.ax[i]
        # Formed once, contiguously: fused into a transposing scatter it would be evaluated along strides.
        pulled = jax.lax.optimization_barrier(rho[i] * h - state.duals[i])
        v = v + block.scatter(block.data, pulled)
        d = d + rho[i] * block.count.astype(x.dtype)
        y.append(y_i)
        values.append(value)
    v = safe_divide(v, d, x)
    x_new = data_term.prox(data_term.data, v, jnp.broadcast_to(d, x.shape), x)
    ax = tuple(block.gather(block.data, x_new) for block in blocks)
    duals = tuple(
        state.duals[i] + rho[i] * (ax[i] - kappa * y[i] - (1 - kappa) * state.ax[i]) for i in range(len(blocks))
    )
    step = Step(k, rho, state.ax, ax, tuple(y), state.duals, duals)
    step = jax.lax.stop_gradient(step)
    residuals = _residuals(step, blocks, jax.lax.stop_gradient(x), jax.lax.stop_gradient(x_new))
    finite = jnp.isfinite(residuals.primal) & jnp.isfinite(residuals.dual) & jnp.isfinite(residuals.change)
    rho_new, memory = problem.penalty.update(state.memory, step)
    limit = limit_of(problem.penalty)
    rho_new = jnp.clip(jnp.where(jnp.isfinite(rho_new), rho_new, rho), state.rho0 / limit, limit * state.rho0)
    x_new = jnp.where(finite, x_new, x)
    state = state._replace(
        x=x_new,
        ax=ax,
        y=tuple(y),
        duals=duals,
        rho=rho_new,
        iter=k,
        memory=memory,
        value=sum(values[1:], values[0]),
        residuals=residuals,
        status=jnp.where(finite, state.status, DIVERGED).astype(jnp.int32),
    )
    if state.history is None:
        return state
    return state._replace(history=state.history.record(state.iter - problem.first_iter - 1, _record(problem, state)))


def _residuals(step: Step, blocks: tuple[Block, ...], x_old: Array, x: Array) -> Residuals:
    primal, y, w = block_norms(step.y, step.ax), block_norms(step.y), block_norms(step.duals)
    moved = x - x_old
    # ||A_i z||^2 = sum_j c_ij z_j^2, so norms of A_i z need only x-shaped arrays.
    ax2 = jnp.stack([_counted(block.count, x) for block in blocks])
    moved2 = jnp.stack([_counted(block.count, moved) for block in blocks])
    norm = lambda squares: jnp.sqrt(jnp.sum(squares))  # noqa: E731
    return Residuals(
        primal=safe_ratio(norm(primal**2), jnp.maximum(norm(y**2), norm(ax2))),
        dual=safe_ratio(norm(step.rho**2 * moved2), norm(w**2)),
        change=safe_ratio(norm(sum_of_squares(moved)), norm(sum_of_squares(x))),
        gap=jnp.asarray(jnp.nan, x.dtype),
    )


def _counted(count: Array, x: Array) -> Float[Array, ""]:
    count = count.astype(x.dtype)
    return count * sum_of_squares(x) if count.ndim == 0 else jnp.sum(count * x**2)


def _test(problem: _Problem, state: ADMMState) -> ADMMState:
    stop = problem.stop
    if stop.certified:
        primal, dual = jax.lax.stop_gradient(certificate(problem.blocks, problem.data_term, state.x, state.duals))
        gap = safe_ratio(primal - dual, jnp.abs(primal))
        state = state._replace(residuals=state.residuals._replace(gap=gap))
        if state.history is not None:
            index = state.iter - problem.first_iter - 1
            state = state._replace(history=state.history.record(index, {"gap": gap}))
    return _with_status(state._replace(measure=stop.measure(state.residuals)), stop)


def _with_status(state: ADMMState, stop: Any) -> ADMMState:
    """State with the status that its last measure means under this rule; a resumed run may bring a new rule."""
    measure = state.measure
    best, best_iter = best_so_far(measure, state.iter, state.best, state.best_iter)
    status = jnp.where(measure <= stop.tol, CONVERGED, RUNNING)
    if stop.patience is not None:
        status = stalled_at_rounding(status, measure, state.iter - best_iter >= stop.patience)
    final = (state.status == DIVERGED) | (state.status == EMPTY)
    return state._replace(
        best=best, best_iter=best_iter, status=jnp.where(final, state.status, status).astype(jnp.int32)
    )


def _record(problem: _Problem, state: ADMMState) -> dict[str, Array]:
    data_term = problem.data_term
    record = {
        "primal": state.residuals.primal,
        "dual": state.residuals.dual,
        "rho": state.rho,
        "objective": state.value + data_term.value(data_term.data, state.x),
    }
    if problem.metrics is not None:
        record |= problem.metrics(state.x)
    return record


def _blank_history(problem: _Problem, state: ADMMState, static: _Static) -> History:
    like = jax.eval_shape(lambda state: _record(problem, state), state)
    if problem.stop.certified:
        like = like | {"gap": jax.ShapeDtypeStruct((), state.x.dtype)}
    return empty_history(static.max_iter, like)


def _check_arguments(blocks: Sequence[Block], rho: Any, u0: Any, over_relaxation: Any) -> None:
    if not blocks:
        raise ValueError("blocks is empty; expected at least one")
    check_numbers(0, 2, ends="()", over_relaxation=over_relaxation)
    if jnp.shape(rho) not in ((), (1,), (len(blocks),)):
        raise ValueError(f"rho has shape {jnp.shape(rho)}; expected a number or ({len(blocks)},), one per block")
    check_numbers(0, ends="()", rho=rho)
    if u0 is not None and len(u0) != len(blocks):
        raise ValueError(f"u0 has {len(u0)} arrays; expected {len(blocks)}, one per block")

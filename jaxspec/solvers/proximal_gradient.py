"""Accelerated proximal gradient for ``min_x f(x) + h(x)`` with smooth f and a proximable h.

    x+ = prox_{step h}(z - step grad f(z)),  z+ = x+ + (t - 1) / t+ (x+ - x),  t+ = (1 + sqrt(1 + 4 t^2)) / 2

Reference: Beck, Teboulle, "A fast iterative shrinkage-thresholding algorithm", SIAM J. Imaging Sci. 2009; the gradient
restart is that of O'Donoghue, Candes, "Adaptive restart for accelerated gradient schemes", 2015.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxspec.checks import check_choice, check_numbers
from jaxspec.solvers.loop import (
    CONVERGED,
    DIVERGED,
    RUNNING,
    History,
    best_so_far,
    check_loop_arguments,
    empty_history,
    iterate,
    stalled_at_rounding,
)
from jaxspec.solvers.stopping import default_tol, safe_ratio

Inner = Callable[[PyTree, PyTree], Array]
Extrapolate = Callable[[PyTree, PyTree, Array], PyTree]
_RESTARTS = ("gradient", "none", "always")


class ProximalGradientState(NamedTuple):
    """Everything the iteration needs to go on, bit for bit.

    Attributes:
        x: the last iterate.
        z: the extrapolated point, where the next gradient is taken.
        momentum: t of the extrapolation; 1 after a restart.
        iter: iterations done, over all resumed runs.
        measure: last value of what the stopping rule watches; infinity before the first.
        change: ``||x - z|| / ||x||``, the relative prox-gradient norm of the last iteration.
        gap: last value of the certificate; NaN without one.
        status: 0 iterations used up, 1 converged, 2 stalled at rounding, 3 diverged.
        history: recorded quantities, or None.
        best: with ``patience`` the measure that a stall is judged by; else None.
        best_iter: when it was met.
    """

    x: PyTree
    z: PyTree
    momentum: Float[Array, "*batch"]
    iter: Int[Array, "*batch"]
    measure: Float[Array, "*batch"]
    change: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    history: History | None
    best: Float[Array, "*batch"] | None = None
    best_iter: Int[Array, "*batch"] | None = None


class ProximalGradient(NamedTuple):
    """Result of `accelerated_proximal_gradient`.

    Attributes:
        x: the last finite iterate.
        value: f(x), the smooth part.
        gap: certificate at x, absolute or relative as its function has it; NaN without one, in which case the run
            stopped on the relative prox-gradient norm.
        iterations: done in total (resumed runs included).
        converged: whether the stopping rule was met.
        history: per-iteration ``value`` (f at the extrapolated point) and ``change``, and ``gap`` at every check, or
            None.
        state: to resume, as x0.
    """

    x: PyTree
    value: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    history: History | None
    state: ProximalGradientState


def accelerated_proximal_gradient(
    value_and_grad: Callable[[PyTree], tuple[Array, PyTree]],
    prox: Callable[[PyTree, Array], PyTree],
    x0: PyTree,
    *,
    step: Any,
    inner: Inner | None = None,
    extrapolate: Extrapolate | None = None,
    certificate: Callable[[PyTree, PyTree], Array] | None = None,
    check_every: int = 10,
    restart: str = "gradient",
    tol: Any = None,
    max_iter: int = 1000,
    history: bool = False,
    loop: str = "while",
    patience: int | None = None,
) -> ProximalGradient:
    """Minimises ``f(x) + h(x)`` over a pytree of arrays.

    A callable with changing numbers should be an `equinox.Module` or `jax.tree_util.Partial` that carries them as
    arrays: a fresh closure compiles again. Memory: x, z and a few temporaries of their size.

    Args:
        value_and_grad: ``x -> (f(x), grad f(x))``.
        prox: ``(v, step) -> argmin_x h(x) + ||x - v||^2 / (2 step)``.
        x0: where to start (a warm start is just an x0), or a `ProximalGradientState` to resume bit for bit.
        step: step size, at most 1 / L for an L-Lipschitz gradient; traced.
        inner: inner product of the metric for norms and restart; None: Euclidean.
        extrapolate: ``(x, x_old, weight) -> x + weight (x - x_old)`` for iterates kept in another form than their
            entries (factors); None: leaf by leaf.
        certificate: ``(x, grad f(x)) -> gap``; the run stops at ``gap <= tol``. Without it, at
            ``||x - z|| <= tol ||x||`` (the prox-gradient step), which bounds no error.
        check_every: iterations between two checks (static); a certificate costs one gradient.
        restart: ``"gradient"``: forget the momentum when it points uphill; ``"none"``: never; ``"always"``: no momentum
            at all, the plain proximal gradient method.
        tol: see ``certificate``; None: 1e-5 in float32, 1e-6 in float64.
        max_iter: iterations at most in this call (static).
        history: whether to record.
        loop: ``"while"`` or ``"scan"`` (fixed length, reverse-mode differentiable).
        patience: near rounding (below 1000 eps), iterations without a fall of what is watched by 10% after which the
            run counts as stalled and ends; None: never (static).

    Returns:
        The solution; ``converged`` is False if the run ended otherwise.

    Raises:
        ValueError: for an argument out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> half_square = lambda x: (0.5 * jnp.sum((x - 3.0) ** 2), x - 3.0)
        >>> soft = lambda v, step: jnp.sign(v) * jnp.maximum(jnp.abs(v) - step, 0)
        >>> accelerated_proximal_gradient(half_square, soft, jnp.zeros(2), step=1.0).x
        Array([2., 2.], dtype=float32)
    """
    check_loop_arguments(max_iter, check_every, loop)
    check_choice("restart", restart, _RESTARTS)
    check_numbers(0, ends="()", step=step)
    start = x0.x if isinstance(x0, ProximalGradientState) else x0
    dtype = jnp.result_type(*jax.tree.leaves(start))
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"x0 has dtype {dtype}; expected real floating arrays")
    state = x0 if isinstance(x0, ProximalGradientState) else _initial(jax.tree.map(jnp.asarray, x0), dtype)
    method = _Method(value_and_grad, prox, inner or _euclidean, extrapolate or _leafwise, certificate, restart)
    static = (max_iter, check_every, history, loop, patience)
    return _run(method, state, jnp.asarray(step, dtype), default_tol(tol, dtype), static)


class _Method(eqx.Module):
    value_and_grad: Callable
    prox: Callable
    inner: Inner
    extrapolate: Extrapolate
    certificate: Callable | None
    restart: str = eqx.field(static=True)


def _euclidean(a: PyTree, b: PyTree) -> Array:
    return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.vdot(x, y, precision=jax.lax.Precision.HIGHEST), a, b)))


def _leafwise(x: PyTree, x_old: PyTree, weight: Array) -> PyTree:
    return jax.tree.map(lambda new, old: new + weight * (new - old), x, x_old)


def _initial(x: PyTree, dtype: Any) -> ProximalGradientState:
    one, infinity, zero = jnp.ones((), dtype), jnp.asarray(jnp.inf, dtype), jnp.zeros((), jnp.int32)
    return ProximalGradientState(x, x, one, zero, infinity, infinity, jnp.asarray(jnp.nan, dtype), zero, None)


@eqx.filter_jit
def _run(
    method: _Method,
    state: ProximalGradientState,
    step: Array,
    tol: Array,
    static: tuple[int, int, bool, str, int | None],
) -> ProximalGradient:
    max_iter, check_every, history, loop, patience = static
    first = state.iter
    blank = None
    if history:
        scalar = jax.ShapeDtypeStruct((), state.change.dtype)
        names = ("value", "change") if method.certificate is None else ("value", "change", "gap")
        blank = empty_history(max_iter, dict.fromkeys(names, scalar))
    # A resumed state is judged by what this call watches, which the call before may not have.
    measure = state.change if method.certificate is None else state.gap
    state = state._replace(history=blank, measure=measure, best=None, best_iter=None)
    if patience is not None:
        state = state._replace(best=jnp.full_like(measure, jnp.inf), best_iter=state.iter)
    state = _with_status(state, tol, patience)
    state = iterate(
        lambda state: _step(method, step, first, state),
        lambda state: _test(method, (tol, patience), first, state),
        state,
        max_iter=max_iter,
        check_every=check_every,
        loop=loop,
    )
    value, _ = method.value_and_grad(state.x)
    converged = state.status == CONVERGED
    return ProximalGradient(
        state.x, value, state.gap, state.iter, converged, state.history, state._replace(history=None)
    )


def _minus(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.subtract, a, b)


def _norm(inner: Inner, a: PyTree) -> Array:
    square = jax.lax.stop_gradient(inner(a, a))
    return jnp.sqrt(square)


def _step(method: _Method, step: Array, first: Array, state: ProximalGradientState) -> ProximalGradientState:
    value, grad = method.value_and_grad(state.z)
    x = method.prox(jax.tree.map(lambda z, g: z - step * g, state.z, grad), step)
    moved = _minus(x, state.x)
    uphill = method.inner(_minus(state.z, x), moved) > 0
    momentum = state.momentum
    if method.restart == "always":
        momentum = jnp.ones_like(momentum)
    elif method.restart == "gradient":
        momentum = jnp.where(uphill, 1, momentum)
    following = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
    weight = (momentum - 1) / following
    change = safe_ratio(_norm(method.inner, _minus(x, state.z)), _norm(method.inner, x))
    finite = jnp.isfinite(change)
    keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
    state = state._replace(
        x=jax.tree.map(keep, x, state.x),
        z=method.extrapolate(x, state.x, weight),
        momentum=following,
        iter=state.iter + 1,
        change=change,
        status=jnp.where(finite, state.status, DIVERGED).astype(jnp.int32),
    )
    if state.history is None:
        return state
    record = {"value": value, "change": change}
    return state._replace(history=state.history.record(state.iter - first - 1, record))


def _test(method: _Method, stop: tuple, first: Array, state: ProximalGradientState) -> ProximalGradientState:
    if method.certificate is None:
        return _with_status(state._replace(measure=state.change), *stop)
    _, grad = method.value_and_grad(state.x)
    gap = method.certificate(state.x, grad)
    state = state._replace(gap=gap, measure=gap)
    if state.history is not None:
        state = state._replace(history=state.history.record(state.iter - first - 1, {"gap": gap}))
    return _with_status(state, *stop)


def _with_status(state: ProximalGradientState, tol: Array, patience: int | None) -> ProximalGradientState:
    status = jnp.where(state.measure <= tol, CONVERGED, RUNNING)
    if patience is not None:
        best, best_iter = best_so_far(state.measure, state.iter, state.best, state.best_iter)
        status = stalled_at_rounding(status, state.measure, state.iter - best_iter >= patience)
        state = state._replace(best=best, best_iter=best_iter)
    return state._replace(status=jnp.where(state.status == DIVERGED, DIVERGED, status).astype(jnp.int32))

r"""Semismooth Newton with conjugate gradients, and the augmented Lagrangian method whose inner problems it solves.

Newton: ``(H + ridge) v = -g`` by truncated CG, then the step ``x + t v`` with the lowest value on a list of t. It
suits convex functions with a piecewise smooth gradient, such as sums of squared hinges. Augmented Lagrangian for
``min f(x)`` subject to ``c(x) <= 0``:

    x <- argmin f(x) + rho/2 |(c(x) + L / rho)_+|^2,   L <- rho (c(x) + L / rho)_+,   rho <- growth rho

References: Qi, Sun, "A nonsmooth version of Newton's method", Math. Program. 1993; Rockafellar, "Augmented Lagrangians
and applications of the proximal point algorithm in convex programming", Math. Oper. Res. 1976.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxspec.checks import check_integers
from jaxspec.solvers.loop import CONVERGED, DIVERGED, RUNNING, STALLED, iterate
from jaxspec.solvers.stopping import default_tol

LINE_SEARCH_STEPS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.003)
_SMALLER_LISTS = 2


class NewtonCG(NamedTuple):
    """Result of `newton_cg`.

    Attributes:
        x: the last finite iterate.
        value: f(x).
        grad_norm: norm of the gradient at x.
        status: 0 iterations used up, 1 converged, 2 no step lowers the value (nor, at equal value, the gradient), 3 f
            or its gradient is not finite at x0; or whatever ``stop`` returned.
        converged: status 1.
        iterations: Newton steps.
        cg_iterations: Hessian products, all steps together.
    """

    x: PyTree
    value: Float[Array, "*batch"]
    grad_norm: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    cg_iterations: Int[Array, "*batch"]


class _NewtonState(NamedTuple):
    x: PyTree
    value: Array
    grad_norm: Array
    first_norm: Array
    iter: Array
    cg_iterations: Array
    status: Array


def newton_cg(
    value_grad_hvp: Callable[[PyTree], tuple[Array, PyTree, Callable[[PyTree], PyTree]]],
    x0: PyTree,
    *,
    ridge: Any = 1e-6,
    tol: Any = None,
    max_newton: int = 100,
    max_cg: int = 1000,
    line_search_steps: tuple[float, ...] = LINE_SEARCH_STEPS,
    stop: Callable[[PyTree, Array, PyTree], Array] | None = None,
    precondition: Callable[[PyTree], Callable[[PyTree], PyTree]] | None = None,
) -> NewtonCG:
    """Minimises a convex function over a pytree of arrays.

    CG stops at the relative residual ``clip(|g| / |g(x0)|, 1e-4, 0.1)``. Works under jit and vmap, where finished lanes
    stay as they are; not reverse-mode differentiable.

    Args:
        value_grad_hvp: ``x -> (f(x), grad f(x), v -> H(x) v)`` with one element H of the generalised Hessian.
        x0: where to start.
        ridge: added to H, >= 0; traced.
        tol: stop at ``|grad| <= tol |grad f(x0)|`` (only without ``stop``); None: 1e-5 in float32, 1e-6 in float64.
        max_newton: Newton steps at most (static).
        max_cg: Hessian products per step at most (static).
        line_search_steps: the list of t, positive (static). The first is taken if it halves the gradient and does not
            raise the value, otherwise the one with the lowest value. If none lowers it, the list times its least entry
            (at most 1/2) is tried, and that once more.
        stop: ``(x, f(x), grad f(x)) -> int32``, 0 to go on, any other number ends the run and becomes the status
            (from 5 on they are the caller's own).
        precondition: ``x -> (v -> P v)``, P positive definite and near ``(H(x) + ridge)^-1``: CG is preconditioned by
            it. With a factorised Hessian one or two products make a step; None: no preconditioner.

    Returns:
        The result.

    Raises:
        ValueError: a negative ``max_newton``, ``max_cg < 1``, or a list of steps that is empty or not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.array([1.0, 4.0])
        >>> f = lambda x: (jnp.sum(a * x**2) / 2 - jnp.sum(x), a * x - 1, lambda v: a * v)
        >>> jnp.round(newton_cg(f, jnp.zeros(2)).x, 4)
        Array([1.  , 0.25], dtype=float32)
    """
    check_integers(0, max_newton=max_newton)
    check_integers(1, max_cg=max_cg)
    if not line_search_steps or min(line_search_steps) <= 0:
        raise ValueError(f"line_search_steps is {line_search_steps}; expected positive numbers")
    value, grad, _ = value_grad_hvp(x0)
    norm = _norm(grad)
    tol = default_tol(tol, norm.dtype)
    steps = jnp.asarray(line_search_steps, norm.dtype)

    def judged(state, x, value, grad):
        norm = _norm(grad)
        status = jnp.where(norm <= tol * state.first_norm, CONVERGED, RUNNING) if stop is None else stop(x, value, grad)
        return state._replace(x=x, value=value, grad_norm=norm, status=jnp.asarray(status, jnp.int32))

    def step(state):
        value, grad, hvp = value_grad_hvp(state.x)
        relative = jnp.clip(state.grad_norm / state.first_norm, 1e-4, 0.1)
        inverse = (lambda v: v) if precondition is None else precondition(state.x)
        direction, products = _conjugate_gradient(hvp, inverse, grad, ridge, relative * state.grad_norm, max_cg)
        state = state._replace(iter=state.iter + 1, cg_iterations=state.cg_iterations + products)

        def at(t):
            x = _moved(state.x, t, direction)
            return judged(state, x, *value_grad_hvp(x)[:2])

        # Near the minimum values differ by rounding alone, which would choose t at random; there a smaller gradient is
        # the better witness.
        def level(moved):
            return moved.value <= value + 8 * jnp.finfo(steps.dtype).eps * jnp.abs(value)

        # The first step of the list and then, unless it is good, the one that a search finds: in a loop, since written
        # out one after the other the program would hold f and the rule to stop twice.
        def attempt(carry):
            t, lower, _, _, tries = carry
            moved = at(t)
            needed = jnp.where(tries == 0, state.grad_norm / 2, state.grad_norm)
            accepted = lower | (level(moved) & (moved.grad_norm < needed))
            wanted = ~accepted & (tries == 0)
            t, lower = _line_search(lambda t: value_grad_hvp(_moved(state.x, t, direction))[0], value, steps, wanted)
            return t, lower, moved, accepted, tries + 1

        no = jnp.zeros((), bool)
        begin = (steps[0], no, state, no, zero)
        _, _, moved, accepted, _ = jax.lax.while_loop(lambda carry: ~carry[3] & (carry[4] < 2), attempt, begin)
        stalled = state._replace(status=jnp.full_like(state.status, STALLED))
        return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), moved, stalled)

    zero = jnp.zeros((), jnp.int32)
    start = judged(_NewtonState(x0, value, norm, norm, zero, zero, zero), x0, value, grad)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    start = start._replace(status=jnp.where(finite, start.status, DIVERGED))
    end = iterate(step, lambda state: state, start, max_iter=max_newton)
    return NewtonCG(end.x, end.value, end.grad_norm, end.status, end.status == CONVERGED, end.iter, end.cg_iterations)


def _line_search(value_at, value, steps, wanted):
    """The step of the list with the lowest value and whether it is below ``value``; if not, of ever smaller lists.

    The first step where no list has one below, and where no search is ``wanted``: a condition of the loop, which under
    vmap a branch is not. Close to a kink a descent direction may descend for a very short while
    only.
    """
    shrink = jnp.minimum(jnp.min(steps), 0.5)

    def best(scale):
        values = jax.lax.map(lambda t: value_at(scale * t), steps)
        index = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
        return scale * steps[index], values[index] < value

    def search(carry):
        scale, _, _, tries = carry
        return (scale * shrink, *best(scale), tries + 1)

    first = (jnp.ones_like(shrink), steps[0], jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    _, t, lower, _ = jax.lax.while_loop(lambda carry: wanted & ~carry[2] & (carry[3] <= _SMALLER_LISTS), search, first)
    return jnp.where(lower, t, steps[0]), lower


def _conjugate_gradient(hvp, inverse, grad, ridge, threshold, max_cg):
    """``v ~ -(H + ridge)^-1 grad`` to a residual of ``threshold``, and the number of products."""
    residual = jax.tree.map(jnp.negative, grad)
    first = inverse(residual)

    def runs(carry):
        _, residual, _, _, count, curved = carry
        return curved & (_dot(residual, residual) > threshold**2) & (count < max_cg)

    def step(carry):
        v, residual, direction, square, count, _ = carry
        image = jax.tree.map(lambda h, u: h + ridge * u, hvp(direction), direction)
        curvature = _dot(direction, image)
        # Rounding (or an f that is not convex) can leave no curvature: what was found so far is a descent direction.
        curved = curvature > 0
        length = jnp.where(curved, square / jnp.where(curved, curvature, 1), 0)
        residual = _moved(residual, -length, image)
        image = inverse(residual)
        new = _dot(residual, image)
        turned = _moved(image, new / square, direction)
        return _moved(v, length, direction), residual, turned, new, count + 1, curved & (new > 0)

    zero = jax.tree.map(jnp.zeros_like, grad)
    square = _dot(residual, first)
    start = (zero, residual, first, square, jnp.zeros((), jnp.int32), square > 0)
    v, _, _, _, count, _ = jax.lax.while_loop(runs, step, start)
    # Without curvature along -grad itself nothing was found; the gradient is the direction then.
    flat = _dot(v, v) == 0
    return jax.tree.map(lambda a, g: jnp.where(flat, -g, a), v, grad), count


class AugmentedLagrangian(NamedTuple):
    """Result of `augmented_lagrangian`.

    Attributes:
        x: the last iterate.
        multipliers: L >= 0, like ``constraints(x)``.
        rho: penalty after the last step.
        violation: ``max |max(c(x), -L / rho)|`` of the last step, 0 at a solution.
        status: 0 steps used up, 1 converged, or whatever ``stop`` returned.
        converged: status 1.
        iterations: outer steps.
        inner_iterations: sum of what ``inner_solver`` reported.
    """

    x: PyTree
    multipliers: Float[Array, "..."]
    rho: Float[Array, "*batch"]
    violation: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    inner_iterations: Int[Array, "*batch"]


class _OuterState(NamedTuple):
    x: PyTree
    multipliers: Array
    rho: Array
    violation: Array
    iter: Array
    inner_iterations: Array
    status: Array


def augmented_lagrangian(
    inner_solver: Callable[[PyTree, Array, Array], tuple[PyTree, Array]],
    constraints: Callable[[PyTree], Array],
    x0: PyTree,
    multipliers0: Float[Array, "..."],
    *,
    rho: Any = 1.0,
    growth: Any = 2.0,
    max_outer: int = 12,
    tol: Any = None,
    stop: Callable[[PyTree, Array], Array] | None = None,
) -> AugmentedLagrangian:
    """Solves ``min f(x)`` subject to ``c(x) <= 0``; f is known to ``inner_solver`` alone.

    Args:
        inner_solver: ``(x, L, rho) -> (argmin f + rho/2 |(c + L/rho)_+|^2, int32 iterations)``, started from x.
        constraints: ``x -> c(x)``, an array.
        x0: where to start.
        multipliers0: first L >= 0, like c(x).
        rho: first penalty, > 0; traced.
        growth: factor of the penalty after each step, >= 1; traced.
        max_outer: outer steps at most (static).
        tol: stop at ``violation <= tol`` (only without ``stop``); None: 1e-5 in float32, 1e-6 in float64.
        stop: ``(x, L) -> int32``, 0 to go on, any other number ends the run and becomes the status
            (from 5 on they are the caller's own).

    Returns:
        The result.

    Raises:
        ValueError: a negative ``max_outer``.

    Example:
        >>> import jax.numpy as jnp  # min x^2 / 2 subject to x >= 1
        >>> inner = lambda x, L, rho: ((L + rho) / (1 + rho), jnp.int32(1))
        >>> result = augmented_lagrangian(inner, lambda x: 1 - x, jnp.array(0.0), jnp.array(0.0))
        >>> round(float(result.x), 5), round(float(result.multipliers), 5)
        (1.0, 1.0)
    """
    check_integers(0, max_outer=max_outer)
    dtype = multipliers0.dtype
    tol, growth = default_tol(tol, dtype), jnp.asarray(growth, dtype)

    def step(state):
        x, inner = inner_solver(state.x, state.multipliers, state.rho)
        shift = state.multipliers / state.rho
        c = constraints(x)
        multipliers = state.rho * jnp.maximum(c + shift, 0)
        violation = jnp.max(jnp.abs(jnp.maximum(c, -shift)))
        status = jnp.where(violation <= tol, CONVERGED, RUNNING) if stop is None else stop(x, multipliers)
        count = state.inner_iterations + jnp.asarray(inner, jnp.int32)
        status = jnp.asarray(status, jnp.int32)
        return _OuterState(x, multipliers, state.rho * growth, violation, state.iter + 1, count, status)

    zero = jnp.zeros((), jnp.int32)
    start = _OuterState(x0, multipliers0, jnp.asarray(rho, dtype), jnp.asarray(jnp.inf, dtype), zero, zero, zero)
    end = iterate(step, lambda state: state, start, max_iter=max_outer)
    return AugmentedLagrangian(
        end.x,
        end.multipliers,
        end.rho,
        end.violation,
        end.status,
        end.status == CONVERGED,
        end.iter,
        end.inner_iterations,
    )


def _dot(a, b):
    return sum(jax.tree.leaves(jax.tree.map(lambda u, v: jnp.sum(u * v), a, b)))


def _norm(a):
    return jnp.sqrt(_dot(a, a))


def _moved(x, t, direction):
    return jax.tree.map(lambda u, v: u + t * v, x, direction)

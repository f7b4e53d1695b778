r"""The implicit step that conserves ``H = J + K`` exactly: Gonzalez' discrete gradients in the weighted metric.

    X+ = X + h DK(P, P+) ,   P+ = P - h DJ(X, X+) ,
    DV(u, u+) = grad V(m) + [(V(u+) - V(u) - <grad V(m), u+ - u>) / |u+ - u|^2] (u+ - u) ,   m = (u + u+)/2 ,

an equation in ``X+`` alone. A fixed-point iteration contracts for ``h^2 L / (4 eps) < 1``; where it does not arrive,
Newton's method takes over, with GMRES on products with the Jacobian. Reference: Gonzalez, J. Nonlinear Sci. 6 (1996).
"""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import gmres
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

if TYPE_CHECKING:
    from jaxspec.flow.hamiltonian import LocalFlow

_FIXED_POINT_STEPS, _NEWTON_STEPS, _KRYLOV, _RESTARTS = 60, 20, 40, 5
_ARRIVED, _ACCEPTED = 4.0, 100.0  # residual in units of rounding at which to stop, and which counts as solved
_NO_CORRECTION = {32: 1e-12, 64: 1e-28}  # |u+ - u|^2 below which the quotient is rounding


def solve_midpoint(
    flow: "LocalFlow",
    position: PyTree,
    momentum: PyTree,
    force: PyTree,
    objective: Float[Array, ""],
    h: ArrayLike,
) -> tuple[PyTree, PyTree, Bool[Array, ""]]:
    """Solve one step from the explicit prediction.

    Args:
        flow: objective and parameters.
        position: ``X``.
        momentum: ``P``.
        force: at ``X``.
        objective: ``J(X)``.
        h: step.

    Returns:
        ``(X+, P+, solved)``. Derivatives are those of the solution, by the implicit function theorem, from the dense
        Jacobian of the step: for particles with thousands of entries in all, not millions.
    """
    _, unravel = ravel_pytree(position)
    energy = flow.mean_kinetic(momentum)

    def new_momentum(end):
        middle = _middle(position, end)
        at_middle = flow.evaluate(middle).force
        gradient = _discrete(flow, at_middle, _minus(end, position), flow.evaluate(end).objective - objective)
        # Data of another precision than the particles must not change the type of what is solved for.
        return jax.tree.map(lambda p, g: (p - h * g).astype(p.dtype), momentum, gradient)

    def residual(end):
        end = unravel(end)
        new = new_momentum(end)
        velocity = flow.kinetic(_middle(momentum, new)).velocity
        velocity = _discrete(flow, velocity, _minus(new, momentum), flow.mean_kinetic(new) - energy)
        return ravel_pytree(jax.tree.map(lambda e, x, v: (e - x - h * v).astype(x.dtype), end, position, velocity))[0]

    half = jax.tree.map(lambda p, g: p - h / 2 * g, momentum, force)
    start = jax.tree.map(lambda x, v: x + h * v, position, flow.kinetic(half).velocity)
    end, solved = jax.lax.custom_root(residual, ravel_pytree(start)[0], _solve, _dense_solve, has_aux=True)
    end = unravel(end)
    return end, new_momentum(end), solved > 0


def _discrete(flow, gradient, change, difference):
    """Midpoint gradient, corrected along the change so that its product with the change is the difference of values."""
    squared = flow.measure.inner(change, change)
    tiny = squared < _NO_CORRECTION[jnp.finfo(squared.dtype).bits]
    gain = (difference - flow.measure.inner(gradient, change)) / jnp.where(tiny, 1, squared)
    gain = jnp.where(tiny, 0, gain)
    return jax.tree.map(lambda g, d: g + gain * d, gradient, change)


def _middle(a, b):
    return jax.tree.map(lambda x, y: (x + y) / 2, a, b)


def _minus(a, b):
    return jax.tree.map(jnp.subtract, a, b)


class _Search(NamedTuple):
    end: Array
    error: Array  # largest entry of the residual, in units of rounding
    previous: Array
    count: Array


def _solve(residual, start):
    unit = jnp.finfo(start.dtype).eps

    def error(end, value):
        return jnp.max(jnp.abs(value)) / (unit * (1 + jnp.max(jnp.abs(end))))

    def unfinished(limit, patience):
        def condition(search):
            # Among the last digits the error no longer falls by much.
            stalled = (search.error > patience * search.previous) & (search.error <= _ACCEPTED)
            going = (search.error > _ARRIVED) & ~stalled & (search.count < limit)
            return going & jnp.isfinite(search.error)

        return condition

    def fixed_point(carry):
        search, value = carry
        end = search.end - value
        value = residual(end)
        return _Search(end, error(end, value), search.error, search.count + 1), value

    def newton(carry):
        search, value = carry
        _, product = jax.linearize(residual, search.end)
        end = search.end - _krylov(product, value, 1e-10)
        value = residual(end)
        return _Search(end, error(end, value), search.error, search.count + 1), value

    value = residual(start)
    first = _Search(start, error(start, value), jnp.inf, 0)
    first = first._replace(previous=jnp.full_like(first.error, jnp.inf))

    def contracting(carry):
        search = carry[0]
        growing = (search.count > 3) & (search.error > search.previous) & (search.error > _ACCEPTED)
        return unfinished(_FIXED_POINT_STEPS, 0.5)(search) & ~growing

    found, last = jax.lax.while_loop(contracting, fixed_point, (first, value))
    usable = (found.error < first.error) & jnp.isfinite(found.error)
    found, last = jax.tree.map(lambda a, b: jnp.where(usable, a, b), (found, last), (first, value))
    found = found._replace(count=jnp.zeros_like(found.count), previous=jnp.full_like(found.error, jnp.inf))
    found, _ = jax.lax.while_loop(
        lambda carry: unfinished(_NEWTON_STEPS, 0.5)(carry[0]) & (carry[0].error > _ACCEPTED), newton, (found, last)
    )
    return found.end, (found.error <= _ACCEPTED).astype(start.dtype)  # a root's second output needs a tangent


def _dense_solve(product, right):
    return jnp.linalg.solve(jax.jacobian(product)(right), right)


def _krylov(product, right, tol):
    return gmres(product, right, tol=tol, atol=0.0, restart=min(_KRYLOV, right.size), maxiter=_RESTARTS)[0]

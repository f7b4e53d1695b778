r"""The matrix that recalls all associations with the largest margin, and multipliers that prove it.

``min ||W||_F^2 / 2`` subject to ``M >= 1`` by the augmented Lagrangian method: the inner problems ``||W||^2 / (2 rho) +
1/2 sum (1 - M + L / rho)_+^2`` by semismooth Newton, then ``L = rho (1 - M + L / rho)_+``. In units of ``||W||_F = d``
every W and every L bound the margin, from below and from above.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxspec.memory.associations import Associations
from jaxspec.memory.certificates import checked_problem, gap_bounds, in_units, proven_bounds
from jaxspec.memory.feasibility import DIRECT, factorised_hessian, hinges, in_callers_units, normalised
from jaxspec.memory.pairs import all_pairs
from jaxspec.solvers import augmented_lagrangian, newton_cg

_SOLVED, _INFEASIBLE, _INNER = 5, 6, 7


class MaxMargin(NamedTuple):
    W: Float[Array, "*batch d d"]
    multipliers: Float[Array, "*batch p q"]
    lower: Float[Array, "*batch"]
    upper: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    iterations: Int[Array, "*batch"]


def max_margin(
    a: Associations,
    *,
    n: Int[Array, ""] | int | None = None,
    gap_tol: Float[Array, ""] | float = 1e-3,
    tol: Float[Array, ""] | float = 1e-5,
    max_outer: int = 12,
    max_newton: int = 40,
    max_cg: int = 1000,
) -> MaxMargin:
    a, n, (gap_tol, tol) = checked_problem(a, n, gap_tol=gap_tol, tol=tol)
    return _max_margin(a, n, gap_tol, tol, max_outer, max_newton, max_cg)


@partial(jax.jit, static_argnums=(4, 5, 6))
def _max_margin(a, n, gap_tol, tol, max_outer, max_newton, max_cg):
    a, units = in_units(a)
    pairs = all_pairs(a, n)
    found = widest(pairs, gap_tol, tol, max_outer, max_newton, max_cg)
    W, multipliers = normalised(found.x, found.multipliers)
    lower, upper = proven_bounds(pairs, W, multipliers)
    lower = jnp.maximum(lower, 0)
    infeasible = upper < tol
    gap = jnp.where(infeasible, 0, (upper - lower) / upper)
    status = jnp.where(infeasible, -1, jnp.where(lower > 0, 1, 0))
    converged = infeasible | (gap <= gap_tol)
    W = jnp.where(infeasible, 0, W)
    lower = jnp.where(infeasible, 0, lower)
    status, lower, upper = in_callers_units(status, lower, upper, units)
    return MaxMargin(W, multipliers, lower, upper, gap, status, converged, found.inner_iterations)


def widest(pairs, gap_tol, tol, max_outer, max_newton, max_cg, rho=100.0, growth=4.0, direct=None):
    d = pairs.x.shape[1]
    dtype = pairs.x.dtype
    direct = d <= DIRECT if direct is None else direct

    def judged(W, L):
        lower, upper = gap_bounds(pairs, W, L)
        solved = upper - jnp.maximum(lower, 0) <= gap_tol * upper
        return jnp.where(upper < tol, _INFEASIBLE, jnp.where(solved, _SOLVED, 0))

    def inner(W, L, rho):
        shift = 1 + L / rho

        def value_grad_hvp(W):
            R = hinges(pairs, W, shift)
            value = jnp.sum(W * W) / (2 * rho) + jnp.sum(R * R) / 2

            def hvp(V):
                return V / rho + pairs.adjoint(jnp.where(R > 0, pairs.gaps(V), 0))

            return value, W / rho - pairs.adjoint(R), hvp

        def stop(W, value, grad):
            stationary = rho * jnp.linalg.norm(grad) <= 1e-3 * jnp.linalg.norm(W)
            status = judged(W, hinges(pairs, W, shift))
            return jnp.where(status == 0, jnp.where(stationary, _INNER, 0), status)

        factorised = (lambda W: factorised_hessian(pairs, hinges(pairs, W, shift) > 0, 1 / rho)) if direct else None
        found = newton_cg(
            value_grad_hvp, W, ridge=0.0, max_newton=max_newton, max_cg=max_cg, stop=stop, precondition=factorised
        )
        return found.x, found.iterations

    return augmented_lagrangian(
        inner,
        lambda W: jnp.where(pairs.mask, 1 - pairs.gaps(W), -jnp.inf),
        jnp.zeros((d, d), dtype),
        jnp.zeros(pairs.mask.shape, dtype),
        rho=rho,
        growth=growth,
        max_outer=max_outer,
        stop=judged,
    )

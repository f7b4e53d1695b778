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
from jaxspec.memory.pairs import Pairs, all_pairs
from jaxspec.solvers import augmented_lagrangian, newton_cg

_SOLVED, _INFEASIBLE, _STATIONARY = 5, 6, 7
_FIRST_PENALTY, _GROWTH = 100.0, 4.0
_INNER_ACCURACY = 1e-3  # of the inner problems: error of W = A^T L, relative


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
    best, count = widest(pairs, jnp.zeros((a.x.shape[1],) * 2, a.x.dtype), gap_tol, tol, max_outer, max_newton, max_cg)
    W, multipliers = normalised(best.W, best.multipliers)
    lower, upper = proven_bounds(pairs, W, multipliers)
    infeasible = upper < tol
    lower = jnp.where(infeasible, 0, jnp.maximum(lower, 0))
    gap = jnp.where(infeasible, 0, _relative_gap(lower, upper))
    status = jnp.where(infeasible, -1, jnp.where(lower > 0, 1, 0))
    status, lower, upper = in_callers_units(status, lower, upper, units)
    converged = units.sound & (infeasible | (gap <= gap_tol))
    return MaxMargin(jnp.where(status < 0, 0, W), multipliers, lower, upper, gap, status, converged, count)


class Best(NamedTuple):
    """The best bounds so far, each with what proves it, and the iterate."""

    x: Float[Array, "d d"]
    W: Float[Array, "d d"]
    lower: Float[Array, ""]
    multipliers: Float[Array, "p k"]
    upper: Float[Array, ""]

    def bettered(self, pairs, W, multipliers):
        """With what W and the multipliers prove."""
        lower, upper = gap_bounds(pairs, W, multipliers)
        higher, closer = lower > self.lower, upper < self.upper
        return Best(
            W,
            jnp.where(higher, W, self.W),
            jnp.where(higher, lower, self.lower),
            jnp.where(closer, multipliers, self.multipliers),
            jnp.where(closer, upper, self.upper),
        )


def widest(pairs: Pairs, W0, gap_tol, tol, max_outer, max_newton, max_cg, direct=None):
    """Margin of the given pairs: the best bounds found, and the number of Newton steps."""
    direct = len(W0) <= DIRECT if direct is None else direct

    def judged(lower, upper):
        solved = _relative_gap(lower, upper) <= gap_tol
        return jnp.where(upper < tol, _INFEASIBLE, jnp.where(solved, _SOLVED, 0))

    def inner(best, multipliers, rho):
        shift = 1 + multipliers / rho

        def value_grad_hvp(W):
            R = hinges(pairs, W, shift)
            value = jnp.sum(W * W) / (2 * rho) + jnp.sum(R * R) / 2
            hvp = lambda V: V / rho + pairs.adjoint(jnp.where(R > 0, pairs.gaps(V), 0))  # noqa: E731
            return value, W / rho - pairs.adjoint(R), hvp

        def stop(W, value, grad):
            lower, upper = gap_bounds(pairs, W, hinges(pairs, W, shift))
            status = judged(jnp.maximum(lower, best.lower), jnp.minimum(upper, best.upper))
            stationary = rho * jnp.linalg.norm(grad) <= _INNER_ACCURACY * jnp.linalg.norm(W)
            return jnp.where((status == 0) & stationary, _STATIONARY, status)

        factorised = (lambda W: factorised_hessian(pairs, hinges(pairs, W, shift) > 0, 1 / rho)) if direct else None
        found = newton_cg(
            value_grad_hvp,
            best.x,
            ridge=0.0,
            max_newton=max_newton,
            max_cg=max_cg,
            stop=stop,
            precondition=factorised,
        )
        return best.bettered(pairs, found.x, hinges(pairs, found.x, shift)), found.iterations

    nothing = jnp.zeros(pairs.mask.shape, W0.dtype)
    found = augmented_lagrangian(
        inner,
        lambda best: jnp.where(pairs.mask, 1 - pairs.gaps(best.x), -jnp.inf),
        Best(W0, jnp.zeros_like(W0), jnp.zeros((), W0.dtype), nothing, jnp.full((), jnp.inf, W0.dtype)),
        nothing,
        rho=_FIRST_PENALTY,
        growth=_GROWTH,
        max_outer=max_outer,
        stop=lambda best, _: judged(best.lower, best.upper),
    )
    return found.x, found.inner_iterations


def _relative_gap(lower, upper):
    """In (0, 1]; 1 where nothing is known."""
    return jnp.where(jnp.isfinite(upper) & (upper > 0), (upper - lower) / jnp.where(upper > 0, upper, 1), 1)

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
from jaxspec.memory.certificates import INFEASIBLE, SOLVED, STATIONARY, checked_problem, gap_bounds, in_units
from jaxspec.memory.hinges import DIRECT, factorised_hessian, hinges
from jaxspec.memory.lists import Limits, Solved, checked_limits, reported, solved
from jaxspec.memory.pairs import Pairs
from jaxspec.solvers import augmented_lagrangian, newton_cg

_FIRST_PENALTY, _GROWTH = 100.0, 4.0
_INNER_ACCURACY = 1e-3  # of the inner problems: error of W = A^T L, relative


class MaxMargin(NamedTuple):
    """Result of `max_margin`.

    Attributes:
        W: the memory, of ``||W||_F = d``; 0 if infeasible.
        multipliers: ``lambda >= 0`` of sum 1 that prove ``upper``. (p, q), or (p, top).
        lower: margin of W, or 0: the largest margin is at least this.
        upper: ``d ||A^T lambda||_F``: the largest margin is at most this.
        gap: relative, ``(upper - lower) / upper``; 0 if infeasible.
        status: +1 positive margin, -1 infeasible (``upper < tol``), 0 neither is known.
        converged: whether ``gap <= gap_tol``, or infeasible.
        iterations: Newton steps.
        listed: competitors of each row that the multipliers belong to, (p, top); None: all.
    """

    W: Float[Array, "*batch d d"]
    multipliers: Float[Array, "*batch p k"]
    lower: Float[Array, "*batch"]
    upper: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    listed: Int[Array, "*batch p k"] | None = None


def max_margin(
    a: Associations,
    *,
    n: Int[Array, ""] | int | None = None,
    gap_tol: Float[Array, ""] | float = 1e-3,
    tol: Float[Array, ""] | float = 1e-5,
    max_outer: int = 12,
    max_newton: int = 40,
    max_cg: int = 1000,
    top: int | None = None,
    block: int = 256,
) -> MaxMargin:
    """The largest ``d / ||W||_F min M[mu, nu]`` over all memories, between two bounds that are proved.

    Rounding of the bounds, engines, lists and sharding are those of `check_feasible`. In float32 gaps of 1e-3 are
    reached down to margins of about 0.01 (data of norm 1), in float64 to below 1e-3.

    Args:
        a: the associations.
        n: only the n leading ones, in [2, p]; traced; None: all.
        gap_tol: relative gap to stop at, >= 0.
        tol: margin that counts as none, >= 0, for keys and values of norm 1.
        max_outer: updates of the multipliers at most; with ``top``, for each list (static).
        max_newton: Newton steps for each of them at most (static).
        max_cg: Hessian products for each Newton step at most (static).
        top: length of the lists of competitors; None: all pairs at once (static).
        block: competitors at a time in a pass over all pairs; used with ``top`` (static).

    Returns:
        The result, under ``vmap`` with leading axes. At the caps ``converged`` is false and the bounds hold all the
        same. Under jit, data that are not finite give status 0 and infinite bounds. Not differentiable.

    Raises:
        ValueError: as `check_feasible`, or a negative ``gap_tol``.

    Example:
        >>> import jax.numpy as jnp
        >>> best = max_margin(Associations(jnp.eye(2), jnp.eye(2)))  # attained by I - 1/2, of norm 1
        >>> round(float(best.lower), 2)
        2.0
    """
    a, n, (gap_tol, tol) = checked_problem(a, n, gap_tol=gap_tol, tol=tol)
    limits = checked_limits(a, Limits(max_newton, max_cg, max_outer, top, block))
    return _max_margin(a, n, gap_tol, tol, limits)


@partial(jax.jit, static_argnums=4)
def _max_margin(a, n, gap_tol, tol, limits):
    a, units = in_units(a)

    def judge(lower, upper):
        return jnp.where(upper < tol, INFEASIBLE, jnp.where(_relative_gap(lower, upper) <= gap_tol, SOLVED, 0))

    def solve(pairs, W, found):
        return widest(pairs, W, judge, limits, found)

    end, pairs = solved(a, n, solve, judge, limits)
    W, multipliers, lower, upper = reported(a, n, pairs, end, limits)
    infeasible = upper < tol
    lower = jnp.where(infeasible, 0, jnp.maximum(lower, 0))
    gap = jnp.where(infeasible, 0, _relative_gap(lower, upper))
    status = jnp.where(infeasible, -1, jnp.where(lower > 0, 1, 0))
    return MaxMargin(
        jnp.where(infeasible, 0, W),
        multipliers,
        *units.bounds(lower, upper),
        jnp.where(units.sound, gap, 1),
        jnp.where(units.sound, status, 0),
        units.sound & (infeasible | (gap <= gap_tol)),
        end.newton,
        end.listed,
    )


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


def widest(pairs: Pairs, W0: Float[Array, "d d"], judge, limits: Limits, found: Solved) -> Solved:
    """The augmented Lagrangian method on the given pairs.

    Args:
        pairs: the pairs.
        W0: where to start.
        judge: ``(lower, upper) -> int``, 0 to go on.
        limits: caps.
        found: what counts so far.

    Returns:
        The best memory and the best multipliers, with the counts added.
    """
    direct = len(W0) <= DIRECT

    def inner(best, multipliers, rho):
        shift = 1 + multipliers / rho

        def value_grad_hvp(W):
            R = hinges(pairs, W, shift)
            value = jnp.sum(W * W) / (2 * rho) + jnp.sum(R * R) / 2
            hvp = lambda V: V / rho + pairs.adjoint(jnp.where(R > 0, pairs.gaps(V), 0))  # noqa: E731
            return value, W / rho - pairs.adjoint(R), hvp

        def stop(W, value, grad):
            lower, upper = gap_bounds(pairs, W, hinges(pairs, W, shift))
            status = judge(jnp.maximum(lower, best.lower), jnp.minimum(upper, best.upper))
            stationary = rho * jnp.linalg.norm(grad) <= _INNER_ACCURACY * jnp.linalg.norm(W)
            return jnp.where((status == 0) & stationary, STATIONARY, status)

        factorised = (lambda W: factorised_hessian(pairs, hinges(pairs, W, shift) > 0, 1 / rho)) if direct else None
        end = newton_cg(
            value_grad_hvp,
            best.x,
            ridge=0.0,
            max_newton=limits.newton,
            max_cg=limits.cg,
            stop=stop,
            precondition=factorised,
        )
        return best.bettered(pairs, end.x, hinges(pairs, end.x, shift)), end.iterations

    nothing = jnp.zeros(pairs.mask.shape, W0.dtype)
    end = augmented_lagrangian(
        inner,
        lambda best: jnp.where(pairs.mask, 1 - pairs.gaps(best.x), -jnp.inf),
        Best(W0, jnp.zeros_like(W0), jnp.zeros((), W0.dtype), nothing, jnp.full((), jnp.inf, W0.dtype)),
        nothing,
        rho=_FIRST_PENALTY,
        growth=_GROWTH,
        max_outer=limits.outer,
        stop=lambda best, _: judge(best.lower, best.upper),
    )
    best = end.x
    newton = found.newton + end.inner_iterations
    return found._replace(W=best.W, multipliers=best.multipliers, x=best.x, newton=newton)


def _relative_gap(lower, upper):
    """In (0, 1]; 1 where nothing is known."""
    return jnp.where(jnp.isfinite(upper) & (upper > 0), (upper - lower) / jnp.where(upper > 0, upper, 1), 1)

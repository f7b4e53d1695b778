r"""Whether one matrix can recall all associations, with a certificate either way.

``F(W) = 1/2 sum (1 - M)_+^2`` is minimised by semismooth Newton. On the way either ``min M > 0``, and W is the
certificate, or the residuals ``R = (1 - M)_+``, whose ``A^T R`` is minus the gradient, become a multiplier with
``d ||A^T R||_F / sum R < tol`` (Gordan, Farkas), which bounds every margin.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxspec.memory.associations import Associations
from jaxspec.memory.certificates import (
    FEASIBLE,
    INFEASIBLE,
    checked_problem,
    checked_start,
    gap_bounds,
    in_units,
)
from jaxspec.memory.hinges import DIRECT, factorised_hessian, hinges, scaled
from jaxspec.memory.lists import Limits, Solved, checked_limits, reported, solved
from jaxspec.memory.pairs import Pairs
from jaxspec.solvers import newton_cg

_RIDGE = 1e-6


class Feasibility(NamedTuple):
    """Result of `check_feasible`.

    Attributes:
        status: +1 feasible, -1 infeasible (no margin above ``tol``), 0 undecided.
        W: the last memory, of ``||W||_F = d``, or 0; for +1 it recalls every pair.
        multipliers: ``lambda >= 0`` of sum 1, or 0; for -1 they prove ``upper``. (p, q), or (p, top).
        lower: smallest of `margins`, what W proves; may be negative. With ``top`` -infinity where multipliers decide.
        upper: ``d ||A^T lambda||_F``, above every margin; infinity where there are no multipliers.
        newton: Newton steps.
        cg: products with the Hessian.
        listed: competitors of each row that the multipliers belong to, (p, top); None: all.
    """

    status: Int[Array, "*batch"]
    W: Float[Array, "*batch d d"]
    multipliers: Float[Array, "*batch p k"]
    lower: Float[Array, "*batch"]
    upper: Float[Array, "*batch"]
    newton: Int[Array, "*batch"]
    cg: Int[Array, "*batch"]
    listed: Int[Array, "*batch p k"] | None = None


def check_feasible(
    a: Associations,
    *,
    n: Int[Array, ""] | int | None = None,
    tol: Float[Array, ""] | float = 1e-5,
    max_newton: int = 100,
    max_cg: int = 1000,
    top: int | None = None,
    block: int = 256,
    W0: Float[Array, "d d"] | None = None,
) -> Feasibility:
    """Whether some W gives every right answer the highest score, with a certificate either way.

    With x64 on, both certificates are recomputed in float64 and widened by a bound on the rounding, whatever the dtype
    of the data: statuses are then proofs. In float32 alone they hold up to rounding (of order 1e-6 on margins). "-1"
    proves that no margin exceeds ``tol``, not that none is positive: `prove_infeasible` does that where it can.

    Up to d = 32 Newton's equations are solved by factorisation, which finds near-critical margins that CG does not.
    With ``top`` a program over the ``top`` strongest competitors of each row is solved and the lists renewed from a
    pass over all of them, until one certificate holds for all pairs. Its memory is ``p (d + top + block)`` numbers,
    ``p d (top + block)`` where rows have competitors of their own. Keys may be divided over devices by rows, with
    y and a pool of competitors on all of them: devices then add one d x d matrix for each Hessian product.

    Args:
        a: the associations.
        n: only the n leading ones, in [2, p]; traced, so that a new n does not recompile; None: all.
        tol: margin that counts as none, >= 0, for keys and values of norm 1 (they are rescaled by powers of two).
        max_newton: Newton steps at most; with ``top``, for each list (static).
        max_cg: Hessian products for each of them at most (static).
        top: length of the lists; None: all pairs at once (static). Near the capacity a row has about d^2 / p active
            competitors in the mean, and single rows three times as many; what a list is too short for stays undecided.
        block: competitors at a time in a pass over all pairs; used with ``top`` (static).
        W0: memory to start from, such as that of fewer or more pairs, of any scale; traced. None: 0.

    Returns:
        The result, under ``vmap`` with leading axes. A `UserWarning` where two of the n values are known to be equal:
        no W exists then; `with_answers` says that keys share an answer. Under jit, data that are not finite give status
        0 and the bounds -infinity and infinity. Not differentiable.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, ``n``, ``tol``, ``top`` or ``block`` out of
            range.

    Example:
        >>> import jax.numpy as jnp
        >>> a = Associations(jnp.eye(3), jnp.eye(3))
        >>> int(check_feasible(a).status)
        1
        >>> int(check_feasible(a._replace(x=jnp.ones((3, 3)))).status)  # equal keys cannot have different answers
        -1
    """
    a, n, (tol,) = checked_problem(a, n, tol=tol)
    limits = checked_limits(a, Limits(max_newton, max_cg, top=top, block=block))
    return _check(a, n, tol, checked_start(W0, a), limits)


@partial(jax.jit, static_argnums=4)
def _check(a, n, tol, W0, limits):
    a, units = in_units(a)

    def solve(pairs, W, found):
        return separate(pairs, W, tol, limits, found)

    def judge(lower, upper):
        return jnp.where(lower > 0, 1, jnp.where(upper < tol, -1, 0))

    end, pairs = solved(a, n, solve, judge, limits, W0)
    W, multipliers, lower, upper = reported(a, n, pairs, end, limits)
    return Feasibility(
        jnp.where(units.sound, judge(lower, upper), 0),
        W,
        multipliers,
        *units.bounds(lower, upper),
        end.newton,
        end.cg,
        end.listed,
    )


def separate(pairs: Pairs, W: Float[Array, "d d"], tol: Array, limits: Limits, found: Solved) -> Solved:
    """Newton's method on F until one certificate holds for the given pairs.

    Args:
        pairs: the pairs.
        W: where to start.
        tol: margin that counts as none.
        limits: caps.
        found: what counts so far.

    Returns:
        The last memory and its residuals, with the counts added.
    """

    def value_grad_hvp(W):
        R = hinges(pairs, W)
        return jnp.sum(R * R) / 2, -pairs.adjoint(R), lambda V: pairs.adjoint(jnp.where(R > 0, pairs.gaps(V), 0))

    def stop(W, value, grad):
        lower, upper = gap_bounds(pairs, W, hinges(pairs, W))
        return jnp.where(lower > 0, FEASIBLE, jnp.where(upper < tol, INFEASIBLE, 0))

    factorised = (lambda W: factorised_hessian(pairs, hinges(pairs, W) > 0, _RIDGE)) if len(W) <= DIRECT else None
    end = newton_cg(
        value_grad_hvp,
        scaled(pairs, W),
        ridge=_RIDGE,
        max_newton=limits.newton,
        max_cg=limits.cg,
        stop=stop,
        precondition=factorised,
    )
    return found._replace(
        W=end.x,
        x=end.x,
        multipliers=_polished(pairs, hinges(pairs, end.x), end.status == FEASIBLE, tol, limits.cg),
        newton=found.newton + end.iterations,
        cg=found.cg + end.cg_iterations,
    )


def _polished(pairs, multipliers, feasible, tol, max_cg):
    """Multipliers nearer to ``A^T lambda = 0``: least squares on their support, kept if the bound improves.

    Residuals ``1 - M`` of a large W carry its rounding; a correction of the multipliers themselves does not.
    """
    active = multipliers > 0

    def moved(V):
        return jnp.where(active, multipliers - pairs.gaps(V), 0)

    def value_grad_hvp(V):
        r = moved(V)
        return jnp.sum(r * r) / 2, -pairs.adjoint(r), lambda U: pairs.adjoint(jnp.where(active, pairs.gaps(U), 0))

    def stop(V, value, grad):
        _, upper = gap_bounds(pairs, V, jnp.maximum(moved(V), 0))
        return jnp.where(feasible | (upper < tol), INFEASIBLE, 0)

    zero = jnp.zeros((pairs.x.shape[1],) * 2, multipliers.dtype)
    factorised = (lambda V: factorised_hessian(pairs, active, _RIDGE)) if len(zero) <= DIRECT else None
    end = newton_cg(value_grad_hvp, zero, ridge=_RIDGE, max_newton=3, max_cg=max_cg, stop=stop, precondition=factorised)
    better = jnp.maximum(moved(end.x), 0)
    improves = gap_bounds(pairs, zero, better)[1] < gap_bounds(pairs, zero, multipliers)[1]
    return jnp.where(improves, better, multipliers)

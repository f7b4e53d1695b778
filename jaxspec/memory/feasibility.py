r"""Whether one matrix can recall all associations, with a certificate either way.

``F(W) = 1/2 sum (1 - M)_+^2`` is minimised by semismooth Newton. On the way either ``min M > 0``, and W is the
certificate, or the residuals ``R = (1 - M)_+``, whose ``A^T R`` is the gradient, become a multiplier with ``d ||A^T R||_F
/ sum R < tol`` (Gordan, Farkas), which bounds every margin.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxspec.memory.associations import Associations
from jaxspec.memory.certificates import checked_problem, gap_bounds, in_units, proven_bounds
from jaxspec.memory.pairs import Pairs, all_pairs
from jaxspec.solvers import newton_cg

_FEASIBLE, _INFEASIBLE = 5, 6
DIRECT = 24  # up to this d the d^2 x d^2 Hessian is factorised: at p near capacity that costs less than CG


class Feasibility(NamedTuple):
    """Result of `check_feasible`.

    Attributes:
        status: +1 feasible, -1 infeasible (no margin above ``tol``), 0 undecided.
        W: the last memory, of ``||W||_F = d``, or 0; for +1 it recalls every pair.
        multipliers: ``lambda >= 0`` of sum 1, or 0; for -1 they prove ``upper``.
        lower: ``min_mu`` of `margins`, what W proves; may be negative.
        upper: ``d ||A^T lambda||_F``, above every margin; infinity where there are no multipliers.
        newton: Newton steps.
        cg: products with the Hessian.
    """

    status: Int[Array, "*batch"]
    W: Float[Array, "*batch d d"]
    multipliers: Float[Array, "*batch p q"]
    lower: Float[Array, "*batch"]
    upper: Float[Array, "*batch"]
    newton: Int[Array, "*batch"]
    cg: Int[Array, "*batch"]


def check_feasible(
    a: Associations,
    *,
    n: Int[Array, ""] | int | None = None,
    tol: Float[Array, ""] | float = 1e-5,
    max_newton: int = 100,
    max_cg: int = 1000,
) -> Feasibility:
    a, n, (tol,) = checked_problem(a, n, tol=tol)
    return _check(a, n, tol, max_newton, max_cg)


@partial(jax.jit, static_argnums=(3, 4))
def _check(a, n, tol, max_newton, max_cg):
    a, units = in_units(a)
    pairs = all_pairs(a, n)
    d = a.x.shape[1]
    found = separate(pairs, jnp.zeros((d, d), a.x.dtype), tol, max_newton, max_cg)
    W, multipliers = normalised(found.x, hinges(pairs, found.x))
    lower, upper = proven_bounds(pairs, W, multipliers)
    status = jnp.where(lower > 0, 1, jnp.where(upper < tol, -1, 0))
    status, lower, upper = in_callers_units(status, lower, upper, units)
    return Feasibility(status, W, multipliers, lower, upper, found.iterations, found.cg_iterations)


def in_callers_units(status, lower, upper, units):
    return (
        jnp.where(units.sound, status, 0),
        jnp.where(units.sound, lower * units.x * units.y, -jnp.inf),
        jnp.where(units.sound, upper * units.x * units.y, jnp.inf),
    )


def hinges(pairs, W, shift=1):
    return jnp.where(pairs.mask, jnp.maximum(shift - pairs.gaps(W), 0), 0)


def normalised(W, multipliers):
    """W of norm d and multipliers of sum 1, zeros where they vanish."""
    size, total = jnp.linalg.norm(W), jnp.sum(multipliers)
    return W * jnp.where(size > 0, W.shape[0] / jnp.where(size > 0, size, 1), 0), multipliers / jnp.where(total > 0, total, 1)


def separate(pairs: Pairs, W, tol, max_newton, max_cg, direct=None, ridge=1e-6):
    def value_grad_hvp(W):
        R = hinges(pairs, W)
        return jnp.sum(R * R) / 2, -pairs.adjoint(R), lambda V: pairs.adjoint(jnp.where(R > 0, pairs.gaps(V), 0))

    def stop(W, value, grad):
        lower, upper = gap_bounds(pairs, W, hinges(pairs, W))
        return jnp.where(lower > 0, _FEASIBLE, jnp.where(upper < tol, _INFEASIBLE, 0))

    direct = len(W) <= DIRECT if direct is None else direct
    factorised = (lambda W: factorised_hessian(pairs, hinges(pairs, W) > 0, ridge)) if direct else None
    return newton_cg(
        value_grad_hvp, W, ridge=ridge, max_newton=max_newton, max_cg=max_cg, stop=stop, precondition=factorised
    )


def factorised_hessian(pairs, active, ridge):
    """``V -> (H + ridge)^-1 V`` by Cholesky factors, the ridge large enough for them to exist."""
    H = pairs.gram(active)
    ridge = jnp.maximum(ridge, 4 * jnp.finfo(H.dtype).eps * jnp.max(jnp.diagonal(H)))
    factor = jax.lax.linalg.cholesky(H + ridge * jnp.eye(len(H), dtype=H.dtype), symmetrize_input=False)

    def solve(V):
        return jax.scipy.linalg.cho_solve((factor, True), V.reshape(-1)).reshape(V.shape)

    return solve

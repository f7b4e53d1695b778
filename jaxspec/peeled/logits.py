r"""The certified global optimum of a layer-peeled program for any targets: a convex program in the logits.

    min_Z L(Z)  s.t.  ||Z||_* <= tau        or        min_Z L(Z) + lam ||Z||_*

by the accelerated proximal gradient method with the duality gap as stopping rule. `jaxspec.peeled` has faster solvers
for targets with symmetries; they return the same optimum.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.checks import check_numbers
from jaxspec.linalg import ordered, singular_values, spectral_norm
from jaxspec.peeled.certificate import loss_of, require_frobenius, scaled, scaled_gap
from jaxspec.peeled.checks import (
    PATIENCE,
    check_distributions,
    checked_start,
    default_gap,
    floating,
    masses_or_uniform,
)
from jaxspec.peeled.loss import ScaledLoss, cross_entropies, unbounded_logits
from jaxspec.peeled.problem import LayerPeeledProblem, PeeledSolution, numerical_rank
from jaxspec.prox import project_nuclear_ball, svt
from jaxspec.solvers import ProximalGradient, accelerated_proximal_gradient


class Limits(NamedTuple):
    """Static arguments of the loop.

    Attributes:
        max_iter: iterations at most.
        check_every: iterations between two looks at the gap.
    """

    max_iter: int
    check_every: int


def solve_logits(
    problem: LayerPeeledProblem,
    *,
    tol: Any = None,
    max_iter: int = 20000,
    check_every: int = 10,
    init: Any = None,
) -> PeeledSolution:
    """``min_Z L(Z)`` subject to ``||Z||_* <= tau``, with a proof of global optimality.

    An iteration costs a factorisation of the short side, ``O(V m min(V, m))``. The condition grows like ``exp(E)``: at
    large budgets with targets near 0 the iterations can run out, which ``converged`` and ``gap`` say. Maps over
    problems by `jax.vmap`.

    Args:
        problem: with Frobenius budgets.
        tol: duality gap, in nats, at which to stop; None: 1e-10 (float64), 1e-6 (float32).
        max_iter: iterations at most (static).
        check_every: iterations between two looks at the gap (static).
        init: logits to start from, (V, m), or a `PeeledSolution`; None: 0.

    Returns:
        The solution. NaN targets under jit give a NaN value and ``converged`` False.

    Raises:
        ValueError: per-vector budgets, or an argument out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> solution = solve_logits(LayerPeeledProblem(jnp.eye(3), budget_W=1.0))
        >>> solution.logits.round(3)[0]
        Array([ 1. , -0.5, -0.5], dtype=float32)
    """
    require_frobenius(problem)
    start = _start(problem, init)
    tol = default_gap(tol, problem.targets.dtype)
    return solve_problem(problem, problem.radius, start, tol, Limits(max_iter, check_every))


def solve_logits_path(
    problem: LayerPeeledProblem,
    budgets: Any,
    *,
    tol: Any = None,
    max_iter: int = 20000,
    check_every: int = 10,
    init: Any = None,
) -> PeeledSolution:
    """`solve_logits` for every budget ``E = sqrt(E_W E_H)``, each started from the one before: one `jax.lax.scan`.

    Args:
        problem: its own budgets are not used.
        budgets: E >= 0, (L,), best ascending.
        tol: as in `solve_logits`.
        max_iter: iterations at most for each budget (static).
        check_every: as in `solve_logits`.
        init: where the first starts.

    Returns:
        A solution with a leading axis of length L on every field.

    Raises:
        ValueError: per-vector budgets, or an argument out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> path = solve_logits_path(LayerPeeledProblem(jnp.eye(3)), jnp.array([0.5, 1.0]))
        >>> [round(float(value), 3) for value in path.value]
        [0.665, 0.369]
    """
    require_frobenius(problem)
    check_numbers(0, budgets=budgets)
    budgets = jnp.asarray(budgets, problem.targets.dtype)
    if budgets.ndim != 1:
        raise ValueError(f"budgets has shape {budgets.shape}; expected one axis")
    start, tol = _start(problem, init), default_gap(tol, problem.targets.dtype)
    return _path(problem, budgets, start, tol, Limits(max_iter, check_every))


def solve_logits_penalised(
    targets: Any,
    weights: Any,
    penalty: Any,
    *,
    tol: Any = None,
    max_iter: int = 20000,
    check_every: int = 10,
    init: Any = None,
    checked: bool = True,
) -> PeeledSolution:
    r"""``min_Z L(Z) + lam ||Z||_*``: the program with weight decay in place of budgets.

    The decay ``lam_W/2 ||W||_F^2 + lam_H/2 ||H||_F^2`` gives ``lam = sqrt(lam_W lam_H)``. The solution is zero exactly
    when lam is at least the spectral norm of the gradient at 0. Gap: primal minus dual value at
    ``Q_t = P + t (softmax(Z) - P)``, ``t = min(1, lam / ||G||_op)``.

    Args:
        targets: P, (V, m).
        weights: pi, (m,); None: 1/m each.
        penalty: lam >= 0. With 0 and a target of 0 no minimiser exists.
        tol: as in `solve_logits`.
        max_iter: as in `solve_logits`.
        check_every: as in `solve_logits`.
        init: as in `solve_logits`.
        checked: whether to look at the values.

    Returns:
        The solution; ``value`` is L alone, ``active`` whether lam > 0, ``multiplier`` is ``||G||_op`` (lam unless Z is
        0).

    Raises:
        ValueError: for an argument out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> solution = solve_logits_penalised(jnp.eye(3), None, 0.1)
        >>> round(float(solution.singular_values[0]), 4)
        2.0791
    """
    targets = floating("targets", targets)
    if checked:
        check_distributions("targets", targets)
        check_numbers(0, penalty=penalty)
    weights = masses_or_uniform("weights", weights, targets.shape[-1], targets.dtype, checked=checked)
    problem = LayerPeeledProblem(targets, weights, checked=False)
    penalty = jnp.asarray(penalty, targets.dtype)
    start, tol = _start(problem, init), default_gap(tol, targets.dtype)
    return _solve_penalised(problem, penalty, start, tol, Limits(max_iter, check_every))


class _Project(eqx.Module):
    radius: Array

    def __call__(self, v: Array, step: Array) -> Array:
        return project_nuclear_ball(v, self.radius)


class _Gap(eqx.Module):
    radius: Array

    def __call__(self, image: Array, gradient: Array) -> Array:
        return jnp.sum(gradient * image) + self.radius * spectral_norm(gradient)


class _Shrink(eqx.Module):
    penalty: Array

    def __call__(self, v: Array, step: Array) -> Array:
        return svt(v, self.penalty * step, method="qr")


class _PenalisedGap(eqx.Module):
    loss: ScaledLoss
    penalty: Array

    def __call__(self, image: Array, gradient: Array) -> Array:
        targets, weights = self.loss.targets, self.loss.weights
        logits = self.loss.logits(image)
        norm = spectral_norm(gradient)
        share = jnp.where(norm > self.penalty, self.penalty / jnp.where(norm > 0, norm, 1), 1)
        dual = targets + share * (jax.nn.softmax(logits, axis=0) - targets)
        # Weak duality, q_t in place of the maximising entropies: sum pi H(q_t).
        entropy = -jnp.sum(jnp.where(dual > 0, dual * jnp.log(jnp.where(dual > 0, dual, 1)), 0), axis=0)
        nuclear = jnp.sum(singular_values(ordered(image, norm)))
        return jnp.sum(weights * (cross_entropies(logits, targets) - entropy)) + self.penalty * nuclear


def _start(problem: LayerPeeledProblem, init: Any) -> Array:
    logits = checked_start(init, problem.shape, problem.targets.dtype)
    # Columns without weight have no gradient: they stay where they start, which must be 0.
    return jnp.where(problem.weights > 0, logits, 0)


@eqx.filter_jit
def solve_problem(
    problem: LayerPeeledProblem, radius: Array, start: Array, tol: Array, limits: Limits
) -> PeeledSolution:
    """`solve_logits` at a radius, for checked arguments.

    Args:
        problem: its budgets are not used.
        radius: tau.
        start: logits.
        tol: gap.
        limits: of the loop (static).

    Returns:
        The solution.
    """
    return _constrained(problem, _unbounded(problem), radius, start, tol, limits)


@eqx.filter_jit
def _path(problem: LayerPeeledProblem, budgets: Array, start: Array, tol: Array, limits: Limits) -> PeeledSolution:
    unbounded = _unbounded(problem)
    sides = jnp.sqrt(jnp.asarray(problem.targets.size, start.dtype))

    def advance(logits: Array, budget: Array) -> tuple[Array, PeeledSolution]:
        solution = _constrained(problem, unbounded, sides * budget, logits, tol, limits)
        return solution.logits, solution

    return jax.lax.scan(advance, start, budgets)[1]


def _unbounded(problem: LayerPeeledProblem) -> tuple[Array, Array]:
    """Minimiser without a budget and its nuclear norm, in scaled coordinates; infinity where it does not exist."""
    logits, exists = unbounded_logits(problem.targets, problem.weights)
    image = scaled(logits, problem)
    return image, jnp.where(exists, jnp.sum(singular_values(image)), jnp.inf)


def _constrained(
    problem: LayerPeeledProblem, unbounded: tuple[Array, Array], radius: Array, start: Array, tol: Array, limits: Limits
) -> PeeledSolution:
    loss, (free, norm) = loss_of(problem), unbounded
    active = ~(norm <= radius)
    fit = accelerated_proximal_gradient(
        loss,
        _Project(radius),
        jnp.where(active, scaled(ordered(start, norm), problem), free),
        step=loss.step,
        certificate=_Gap(radius),
        check_every=limits.check_every,
        tol=tol,
        max_iter=limits.max_iter,
        patience=PATIENCE,
    )
    image = jnp.where(active, fit.x, free)
    values = singular_values(image)
    value, gap, multiplier = scaled_gap(loss, ordered(image, values), radius)
    multiplier = jnp.where(active, multiplier, 0)
    return _solution(loss, image, values, (value, gap, multiplier), fit, (radius, tol, active))


@eqx.filter_jit
def _solve_penalised(
    problem: LayerPeeledProblem, penalty: Array, start: Array, tol: Array, limits: Limits
) -> PeeledSolution:
    loss = loss_of(problem)
    certificate = _PenalisedGap(loss, penalty)
    fit = accelerated_proximal_gradient(
        loss,
        _Shrink(penalty),
        start,
        step=loss.step,
        certificate=certificate,
        check_every=limits.check_every,
        tol=tol,
        max_iter=limits.max_iter,
        patience=PATIENCE,
    )
    value, gradient = loss(fit.x)
    values = singular_values(fit.x)
    gap = certificate(fit.x, ordered(gradient, values))
    numbers = value, gap, spectral_norm(ordered(gradient, gap))
    return _solution(loss, fit.x, values, numbers, fit, (jnp.ones_like(penalty), tol, penalty > 0))


def _solution(
    loss: ScaledLoss,
    image: Array,
    values: Float[Array, " r"],
    numbers: tuple[Array, Array, Array],
    fit: ProximalGradient,
    run: tuple[Array, Array, Array],
) -> PeeledSolution:
    value, gap, multiplier = numbers
    radius, tol, active = run
    return PeeledSolution(
        logits=loss.logits(image),
        value=value,
        gap=gap,
        multiplier=multiplier,
        singular_values=values,
        rank=numerical_rank(values, radius, max(image.shape)),
        iterations=fit.iterations,
        converged=gap <= tol,
        active=active,
    )

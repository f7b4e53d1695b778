r"""Targets with any permutation symmetry, by one column for each orbit of contexts.

With representatives z_r of orbits of m_r contexts, ``Z Z^T = C = R(sum_r m_r z_r z_r^T)``, the Reynolds average over
pairs of tokens: the singular values of the whole Z are the roots of C's eigenvalues, and a function of them acts as
``z_r <- U f U^T z_r``. The cost is ``O(R V^2 + V^3)``, whatever the number of contexts and the order of the group.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxspec.checks import check_numbers, is_concrete
from jaxspec.linalg import eigh, ordered
from jaxspec.linalg.scaling import power_of_two_scale
from jaxspec.peeled.actions import PermutationAction, orbitals
from jaxspec.peeled.averages import check_orbit_sizes, reynolds
from jaxspec.peeled.checks import (
    PATIENCE,
    check_distributions,
    checked_start,
    default_gap,
    floating,
    masses_or_uniform,
)
from jaxspec.peeled.logits import Limits
from jaxspec.peeled.loss import loss_and_gradient, unbounded_logits
from jaxspec.peeled.problem import PeeledSolution, numerical_rank
from jaxspec.prox.balls import l1_shift
from jaxspec.solvers import accelerated_proximal_gradient

_HIGHEST = jax.lax.Precision.HIGHEST


class OrbitProgram(eqx.Module):
    """A layer-peeled program given by representatives.

    Attributes:
        targets: one column for each context orbit, (V, R).
        mass: weight of each whole orbit, (R,), sum 1.
        size: number of contexts in each, (R,), as floats.
        radius: tau of the whole program.
    """

    targets: Float[Array, "V R"]
    mass: Float[Array, " R"]
    size: Float[Array, " R"]
    radius: Float[Array, ""]


def solve_orbits(
    representatives: Any,
    action: PermutationAction,
    orbit_mass: Any,
    orbit_size: Any,
    budget_W: Any,
    budget_H: Any = None,
    *,
    tol: Any = None,
    max_iter: int = 20000,
    check_every: int = 10,
    init: Any = None,
    checked: bool = True,
) -> PeeledSolution:
    """The optimum of `solve_logits` for targets that are orbits of columns; `orbit_representatives` finds them.

    Args:
        representatives: one target column for each context orbit, (V, R).
        action: on the tokens (static).
        orbit_mass: weight of each whole orbit, (R,), sum 1; None: in proportion to the sizes.
        orbit_size: contexts in each orbit, (R,) integers: the number of images of the column, or a multiple of it.
            Up to 1000 this is checked.
        budget_W: E_W >= 0.
        budget_H: E_H >= 0; None: E_W.
        tol: duality gap, in nats, at which to stop; None: 1e-10 (float64), 1e-6 (float32).
        max_iter: iterations at most (static).
        check_every: iterations between two looks at the gap (static).
        init: representatives of the logits to start from, (V, R), or a `PeeledSolution`; None: 0.
        checked: whether to look at the values.

    Returns:
        The solution; ``logits`` are the representatives' columns, ``singular_values`` are the V of the whole matrix,
        each to an absolute ``sqrt(eps)`` of the largest.

    Raises:
        ValueError: for an argument out of range, among them a size that does not fit the action.

    Example:
        >>> import jax.numpy as jnp
        >>> one_hot = jnp.array([[1.0], [0.0], [0.0]])
        >>> solution = solve_orbits(one_hot, PermutationAction.cyclic(3), None, [3], 1.0)
        >>> solution.logits[:, 0].round(3)
        Array([ 1. , -0.5, -0.5], dtype=float32)
    """
    program = orbit_program(representatives, orbit_mass, orbit_size, budget_W, budget_H, checked=checked)
    if program.targets.shape[0] != action.degree:
        raise ValueError(f"representatives has {program.targets.shape[0]} rows; expected {action.degree}, the degree")
    if checked and is_concrete(program.targets, program.size):
        check_orbit_sizes(program.targets, action, np.asarray(orbit_size))
    logits = checked_start(init, program.targets.shape, program.targets.dtype, checked=checked)
    start = jnp.where(program.mass > 0, logits, 0)
    count, labels = orbitals(action)
    tol = default_gap(tol, start.dtype)
    return _solve(program, _TokenAverage(jnp.asarray(labels), count), start, tol, Limits(max_iter, check_every))


def orbit_program(
    representatives: Any, orbit_mass: Any, orbit_size: Any, budget_W: Any, budget_H: Any, *, checked: bool
) -> OrbitProgram:
    """The program of `solve_orbits` and `solve_exchangeable`, its numbers checked.

    Args:
        representatives: (V, R).
        orbit_mass: (R,), or None: in proportion to the sizes.
        orbit_size: (R,) positive integers.
        budget_W: E_W.
        budget_H: E_H; None: E_W.
        checked: whether to look at the values.

    Returns:
        The program.

    Raises:
        ValueError: for an argument out of range.
    """
    targets = floating("representatives", representatives)
    budget_H = budget_W if budget_H is None else budget_H
    if targets.ndim != 2:
        raise ValueError(f"representatives has shape {targets.shape}; expected (V, R)")
    V, R = targets.shape
    if np.shape(orbit_size) != (R,):
        raise ValueError(f"orbit_size has shape {np.shape(orbit_size)}; expected ({R},)")
    if checked:
        check_distributions("representatives", targets)
        check_numbers(0, budget_W=budget_W, budget_H=budget_H)
        if is_concrete(orbit_size):
            sizes = np.asarray(orbit_size)
            if not (np.all(sizes >= 1) and np.all(sizes == np.round(sizes))):
                raise ValueError(f"orbit_size is {orbit_size}; expected integers >= 1")
    size = jnp.asarray(orbit_size, targets.dtype)
    if orbit_mass is None:
        mass = size / jnp.sum(size)
    else:
        mass = masses_or_uniform("orbit_mass", orbit_mass, R, targets.dtype, checked=checked)
    budgets = jnp.sqrt(jnp.asarray(budget_W, targets.dtype)) * jnp.sqrt(jnp.asarray(budget_H, targets.dtype))
    return OrbitProgram(targets, mass, size, jnp.sqrt(V * jnp.sum(size)) * budgets)


class _TokenAverage(eqx.Module):
    """Eigendecomposition of ``Z Z^T`` from representatives."""

    labels: Int[Array, "V V"]
    count: int = eqx.field(static=True)

    def __call__(self, columns: Array, sizes: Array) -> tuple[Array, Array]:
        """Singular values (ascending) and left vectors of the whole matrix."""
        scale = power_of_two_scale(columns)
        y = columns / scale
        gram = reynolds(jnp.matmul(y * sizes, y.T, precision=_HIGHEST), self.labels, self.count)
        squares, vectors = eigh(gram)
        return jnp.sqrt(jnp.maximum(squares, 0)) * scale, vectors


class _Loss(eqx.Module):
    program: OrbitProgram

    def __call__(self, columns: Array) -> tuple[Array, Array]:
        """Value, and the gradient by the column of one context."""
        program = self.program
        value, gradient = loss_and_gradient(columns, program.targets, program.mass)
        return value, gradient / program.size


class _Project(eqx.Module):
    average: _TokenAverage
    program: OrbitProgram

    def __call__(self, columns: Array, step: Array) -> Array:
        values, vectors = self.average(columns, self.program.size)
        top, shift = l1_shift(values[::-1], self.program.radius)
        kept = jnp.maximum(values - top - shift, 0)
        factors = jnp.where(kept > 0, kept / jnp.where(kept > 0, values, 1), 0)
        inside = shift == -top
        mapped = jnp.matmul(vectors.T, columns, precision=_HIGHEST)
        return jnp.where(inside, columns, jnp.matmul(vectors * factors, mapped, precision=_HIGHEST))


class _Inner(eqx.Module):
    sizes: Array

    def __call__(self, a: Array, b: Array) -> Array:
        return jnp.sum(self.sizes * a * b)


class _Gap(eqx.Module):
    average: _TokenAverage
    program: OrbitProgram

    def __call__(self, columns: Array, gradient: Array) -> Array:
        sizes = self.program.size
        norm = self.average(gradient, sizes)[0][-1]
        return _Inner(sizes)(gradient, columns) + self.program.radius * norm


@eqx.filter_jit
def _solve(program: OrbitProgram, average: _TokenAverage, start: Array, tol: Array, limits: Limits) -> PeeledSolution:
    loss, certificate = _Loss(program), _Gap(average, program)
    free, exists = unbounded_logits(program.targets, program.mass)
    norm = jnp.where(exists, jnp.sum(average(free, program.size)[0]), jnp.inf)
    active = ~(norm <= program.radius)
    fit = accelerated_proximal_gradient(
        loss,
        _Project(average, program),
        jnp.where(active, ordered(start, norm), free),
        step=2 / jnp.max(program.mass / program.size),
        inner=_Inner(program.size),
        certificate=certificate,
        check_every=limits.check_every,
        tol=tol,
        max_iter=limits.max_iter,
        patience=PATIENCE,
    )
    columns = jnp.where(active, fit.x, free)
    values = average(columns, program.size)[0][::-1]
    value, gradient = loss(ordered(columns, values))
    multiplier = average(gradient, program.size)[0][-1]
    gap = _Inner(program.size)(gradient, columns) + program.radius * multiplier
    return PeeledSolution(
        logits=columns,
        value=value,
        gap=gap,
        multiplier=jnp.where(active, multiplier, 0),
        singular_values=values,
        rank=_rank(values, program.radius),
        iterations=fit.iterations,
        converged=gap <= tol,
        active=active,
    )


def _rank(values: Array, radius: Array) -> Array:
    """As `numerical_rank`, for roots of eigenvalues, whose rounding is that of their squares."""
    return numerical_rank(values**2, radius**2, values.size)

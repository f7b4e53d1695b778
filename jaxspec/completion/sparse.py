"""Soft-impute for tables too large to hold: observed entries in coordinates, the completion in factors.

Every iterate is ``M = L R^T`` with at most ``max_rank`` columns, so the matrix to be thresholded is sparse plus low
rank: its leading singular triplets come from subspace iteration, which starts from the last ones. Memory is
O(nnz + (n + d) max_rank), an iteration costs O((nnz + n + d) max_rank).

Reference: Mazumder, Hastie, Tibshirani, "Spectral regularization algorithms for learning large incomplete matrices",
JMLR 11 (2010), section 5; the accelerated form in factors is this library's.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxspec.completion import validation
from jaxspec.completion.coordinates import SparseTable, entries, top_triplets
from jaxspec.linalg.scaling import power_of_two_scale, safe_divide
from jaxspec.solvers import accelerated_proximal_gradient
from jaxspec.solvers.loop import CONVERGED, EMPTY, STALLED, stalled_at_rounding
from jaxspec.solvers.stopping import safe_ratio


class SparseCompletion(eqx.Module):
    """A completion in factors, ``M = U diag(s) V^T``.

    Attributes:
        U: left singular vectors, (n, max_rank).
        s: singular values, descending, 0 beyond the rank, (max_rank,).
        V: right singular vectors, (d, max_rank).
        objective: of the problem; infinite where it overflows.
        gap: objective minus the value of the dual point (absolute). The norm of that point comes from subspace
            iteration, from below, so this is an estimate of the bound.
        relative_gap: gap over objective; what the run stopped on.
        iterations: done.
        converged: whether the relative gap reached the tolerance.
        status: 0 iterations used up, 1 converged, 2 stalled at rounding, 3 diverged, 4 no observed entry.
        rank: number of positive singular values.
        capped: whether the rank is max_rank, which then bounds it: the optimum may need more, and the gap shows it.
        lam: as given.
        basis: orthonormal block, (d, width), where the next subspace iteration starts.
    """

    U: Float[Array, "n k"]
    s: Float[Array, " k"]
    V: Float[Array, "d k"]
    objective: Float[Array, ""]
    gap: Float[Array, ""]
    relative_gap: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]
    status: Int[Array, ""]
    rank: Int[Array, ""]
    capped: Bool[Array, ""]
    lam: Float[Array, ""]
    basis: Float[Array, "d w"]

    @property
    def stalled(self) -> Bool[Array, ""]:
        """Whether the run ended at the rounding of its dtype, above the tolerance: as good as this dtype gives it."""
        return self.status == STALLED

    def at(self, rows: Any, columns: Any) -> Float[Array, "*m"]:
        """Completed entries at pairs of a row and a column, (m,) each; memory O(m max_rank)."""
        rows, columns = jnp.asarray(rows), jnp.asarray(columns)
        return jnp.sum((self.U * self.s)[rows] * self.V[columns], axis=-1)


def soft_impute_sparse(
    table: SparseTable,
    lam: float | Float[Array, ""],
    *,
    max_rank: int,
    ridge: float | Float[Array, ""] = 0.0,
    tol: float | Float[Array, ""] = 1e-3,
    max_iter: int = 200,
    accelerate: bool = True,
    init: SparseCompletion | None = None,
    oversample: int = 8,
    sweeps: int = 2,
    check_every: int = 5,
) -> SparseCompletion:
    r"""``min_M 1/2 sum w (y - M)^2 + ridge/2 ||M||_F^2 + lam ||M||_*`` by factors of ``max_rank`` columns.

    Args:
        table: observed entries.
        lam: >= 0, in the units of the values times those of the weights. For a path start from `sparse_lambda_max` and
            hand each result on as ``init``.
        max_rank: largest rank (static). Where the optimum has a lower one the bound does not matter.
        ridge: >= 0, in the units of the weights.
        tol: relative duality gap at which to stop.
        max_iter: iterations at most (static).
        accelerate: Nesterov's extrapolation with gradient restart, on the observed entries, or none (static).
        init: a result for the same shape and ``max_rank`` to start from.
        oversample: extra columns of the subspace iteration (static).
        sweeps: of the subspace iteration, per iteration (static).
        check_every: iterations between two looks at the gap (static).

    Returns:
        The completion in factors. A run that did not converge, or whose rank was capped, says so.

    Raises:
        ValueError: for bad input, naming the argument.

    Example:
        >>> import numpy as np
        >>> from jaxspec.completion import sparse_table
        >>> rows, columns = np.divmod(np.arange(20), 5)
        >>> table = sparse_table(rows, columns, (rows + 1.0) * (columns + 1.0), (4, 5))
        >>> int(soft_impute_sparse(table, 0.1, max_rank=2).rank)
        1
    """
    n, d = table.shape
    if not 1 <= max_rank <= min(n, d):
        raise ValueError(f"max_rank is {max_rank}; expected an integer in [1, {min(n, d)}]")
    dtype = table.values.dtype
    lam, ridge, tol = validation.numbers(dtype, lam=lam, ridge=ridge, tol=tol)
    width = min(max_rank + oversample, n, d)
    if init is None:
        zeros = jnp.zeros((n, max_rank), dtype), jnp.zeros(max_rank, dtype), jnp.zeros((d, max_rank), dtype)
        start = (*zeros, jax.random.normal(jax.random.key(0), (d, width), dtype))
    else:
        start = (init.U, init.s, init.V, init.basis)
        shapes = [(n, max_rank), (max_rank,), (d, max_rank), (d, width)]
        if [part.shape for part in start] != shapes:
            raise ValueError(f"init has factors of shapes {[part.shape for part in start]}; expected {shapes}")
    static = _Static(max_rank, sweeps, max_iter, check_every, accelerate)
    return _solve(table, lam, ridge, tol, start, static)


def sparse_lambda_max(table: SparseTable, *, sweeps: int = 10) -> Float[Array, ""]:
    """``||W Y||_2`` of the observed entries, by subspace iteration: where paths start.

    Args:
        table: observed entries.
        sweeps: of the subspace iteration.

    Returns:
        The norm, in the units of the values times those of the weights.
    """
    return _largest(table, sweeps)


class _Static(NamedTuple):
    max_rank: int
    sweeps: int
    max_iter: int
    check_every: int
    accelerate: bool


class _Iterate(NamedTuple):
    """``M = left @ right^T``, its observed entries, and what the gradient added to them (0 in an iterate).

    An iterate of the prox has rank k and zeros in the other half of the columns; extrapolation fills both halves.
    """

    left: Float[Array, "n k2"]
    right: Float[Array, "d k2"]
    values: Float[Array, " k"]
    observed: Float[Array, " N"]
    moved: Float[Array, " N"]
    basis: Float[Array, "d w"]


class _Problem(eqx.Module):
    table: SparseTable
    lam: Array
    ridge: Array
    static: _Static = eqx.field(static=True)

    def loss(self, x: _Iterate) -> tuple[Array, _Iterate]:
        residual = x.observed - self.table.values
        slope = self.table.weights * residual
        grad = jax.tree.map(jnp.zeros_like, x)._replace(moved=slope)
        return 0.5 * jnp.sum(slope * residual), grad

    def prox(self, v: _Iterate, step: Array) -> _Iterate:
        top = top_triplets(
            self.table, v.moved, v.left, v.right, v.basis, rank=self.static.max_rank, sweeps=self.static.sweeps
        )
        values = jnp.maximum(top.s - step * self.lam, 0) / (1 + step * self.ridge)
        return _iterate_of(self.table, top.u, values, top.vt.T, top.basis)

    def bounds(self, x: _Iterate, grad: _Iterate) -> tuple[Array, Array]:
        """Objective at x and the value of its dual point ``V = W (Y - M) - ridge M``, scaled to be feasible."""
        weight, target, inside = self.table.weights, self.table.values, x.observed
        square = jnp.sum(x.values**2)
        primal = (
            0.5 * jnp.sum(weight * (inside - target) ** 2) + self.lam * jnp.sum(x.values) + 0.5 * self.ridge * square
        )
        norm = top_triplets(
            self.table, -grad.moved, -self.ridge * x.left, x.right, x.basis, rank=1, sweeps=self.static.sweeps
        ).s[0]
        theta = jnp.minimum(1, safe_divide(self.lam, norm, 1))
        V = theta * (-grad.moved - self.ridge * inside)
        curvature = weight + self.ridge
        z = (weight * target - V) / jnp.where(curvature > 0, curvature, 1)
        at_z = 0.5 * weight * (z - target) ** 2 + 0.5 * self.ridge * z**2 + V * z
        seen = jnp.sum(jnp.where(weight > 0, inside, 0) ** 2)
        # Where nothing is observed V = -ridge M, whose part of the dual needs only ||M||_F.
        rest = -0.5 * theta**2 * self.ridge * jnp.maximum(square - seen, 0)
        return primal, jnp.sum(jnp.where(weight > 0, at_z, 0)) + rest

    def gap(self, x: _Iterate, grad: _Iterate) -> Array:
        primal, dual = self.bounds(x, grad)
        rounding = jnp.finfo(primal.dtype).eps * 0.5 * jnp.sum(self.table.weights * self.table.values**2)
        return safe_ratio(primal - dual, jnp.maximum(jnp.abs(primal), rounding))


def _iterate_of(table: SparseTable, U: Array, s: Array, V: Array, basis: Array) -> _Iterate:
    """The iterate ``U diag(s) V^T``."""
    left, right = U * s, V
    observed = entries(table, left, right)
    pad = lambda factor: jnp.pad(factor, ((0, 0), (0, factor.shape[1])))  # noqa: E731
    return _Iterate(pad(left), pad(right), s, observed, jnp.zeros_like(observed), basis)


def _extrapolated(x: _Iterate, x_old: _Iterate, weight: Array) -> _Iterate:
    k = x.values.size
    join = lambda new, old: jnp.concatenate([new[:, :k], old[:, :k]], axis=1)  # noqa: E731
    return x._replace(
        left=join((1 + weight) * x.left, -weight * x_old.left),
        right=join(x.right, x_old.right),
        observed=x.observed + weight * (x.observed - x_old.observed),
    )


def _on_observed(a: _Iterate, b: _Iterate) -> Array:
    return jnp.vdot(a.observed, b.observed, precision=jax.lax.Precision.HIGHEST)


@eqx.filter_jit
def _largest(table: SparseTable, sweeps: int) -> Array:
    n, d = table.shape
    width = min(9, n, d)
    basis = jax.random.normal(jax.random.key(0), (d, width), table.values.dtype)
    empty = jnp.zeros((n, 1), basis.dtype), jnp.zeros((d, 1), basis.dtype)
    return top_triplets(table, table.weights * table.values, *empty, basis, rank=1, sweeps=sweeps).s[0]


@eqx.filter_jit
def _solve(
    table: SparseTable, lam: Array, ridge: Array, tol: Array, start: tuple[Array, ...], static: _Static
) -> SparseCompletion:
    seen = table.weights > 0
    scale, unit = power_of_two_scale(table.values, axis=None), power_of_two_scale(table.weights, axis=None)
    scaled = SparseTable(table.rows, table.columns, table.values / scale, table.weights / unit, table.shape)
    problem = _Problem(scaled, lam / scale / unit, ridge / unit, static)
    U, s, V, basis = start
    largest = jnp.max(scaled.weights)
    fit = accelerated_proximal_gradient(
        problem.loss,
        problem.prox,
        _iterate_of(scaled, U, jnp.where(jnp.any(seen), s / scale, 0), V, basis),
        step=1 / jnp.where(largest > 0, largest, 1),
        inner=_on_observed,
        extrapolate=_extrapolated,
        certificate=problem.gap,
        check_every=static.check_every,
        restart="gradient" if static.accelerate else "always",
        tol=tol,
        max_iter=static.max_iter,
    )
    return _finished(problem, fit, lam, scale, unit)


def _finished(problem: _Problem, fit: Any, lam: Array, scale: Array, unit: Array) -> SparseCompletion:
    x, k = fit.x, problem.static.max_rank
    primal, dual = problem.bounds(x, problem.loss(x)[1])
    status = stalled_at_rounding(fit.state.status, fit.gap)
    status = jnp.where(jnp.any(problem.table.weights > 0), status, EMPTY).astype(jnp.int32)
    rank = jnp.sum(x.values > 0)
    return SparseCompletion(
        U=x.left[:, :k] / jnp.where(x.values > 0, x.values, 1),
        s=x.values * scale,
        V=x.right[:, :k],
        objective=primal * unit * scale * scale,
        gap=(primal - dual) * unit * scale * scale,
        relative_gap=fit.gap,
        iterations=fit.iterations,
        converged=status == CONVERGED,
        status=status,
        rank=rank,
        capped=rank == k,
        lam=lam,
        basis=x.basis,
    )

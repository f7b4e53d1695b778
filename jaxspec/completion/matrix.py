"""Matrix completion with one nuclear norm: soft-impute, its path over lambda, and refitted singular values.

``min_M 1/2 sum_ij W_ij (Y_ij - M_ij)^2 + ridge/2 ||M||_F^2 + lam ||M||_*``, by the accelerated proximal gradient method
with a duality gap as stopping rule.

Reference: Mazumder, Hastie, Tibshirani, "Spectral regularization algorithms for learning large incomplete matrices",
JMLR 11 (2010).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.checks import check_given
from jaxspec.completion import validation
from jaxspec.completion.blocks import unfoldings
from jaxspec.completion.result import CompletionResult, MatrixState
from jaxspec.completion.table_problem import Run, TableProblem, accurate_engine, finished, scaled_problem
from jaxspec.linalg import decompositions, spectral_map, spectral_norm
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import safe_divide
from jaxspec.prox import svt
from jaxspec.solvers import Block, accelerated_proximal_gradient
from jaxspec.solvers.admm import certificate
from jaxspec.solvers.loop import stalled_at_rounding
from jaxspec.solvers.stopping import default_tol

Number = float | int | Float[Array, ""]


def soft_impute(
    Y: Any,
    W: Any = None,
    lam: Any = None,
    *,
    ridge: Number = 0.0,
    tol: Number | None = None,
    max_iter: int = 1000,
    accelerate: bool = True,
    init: Any = None,
    check_every: int = 10,
    loop: str = "while",
    validate: bool = True,
) -> CompletionResult:
    r"""``min_M 1/2 sum W (Y - M)^2 + ridge/2 ||M||_F^2 + lam ||M||_*``: completion by one nuclear norm, certified.

    Works on Y and W divided by powers of two next to their sizes, so that any unit does. Memory: about 8 tables.

    Args:
        Y: data, (n, d); NaN allowed where not observed. float16 and bfloat16 are computed in float32 and cast back,
            integers become float32.
        W: weights >= 0, (n, d), 0 = missing (boolean or numbers); None: 1 where Y is finite.
        lam: >= 0, in the units of Y times those of W; required. At `groups.lambda_max` and above M is 0. The norm
            shrinks towards 0, so subtract the mean of Y, or of its columns, before. See `cv_lambda`.
        ridge: >= 0, in the units of W.
        tol: relative duality gap at which to stop; None: 1e-5 in float64, 1e-4 in float32, where rounding leaves gaps
            of 1e-6 to 1e-4, the more the larger the mean of the data.
        max_iter: iterations at most (static).
        accelerate: Nesterov's extrapolation with gradient restart, or none (static).
        init: None: start at 0; an (n, d) array; or a `CompletionResult` to start from.
        check_every: iterations between two looks at the gap, each of which costs one SVD (static).
        loop: ``"while"``, or ``"scan"``: fixed length and reverse-mode differentiable (static).
        validate: whether to look at the values of Y and W (static).

    Returns:
        The completion with its certificate. A run that did not converge says so in ``status`` and ``stalled``. All
        missing: zeros and status 4. The objective is differentiable by the envelope theorem only; for derivatives of M
        use ``"scan"``.

    Raises:
        ValueError: for bad input, naming the argument.
        TypeError: for complex input.

    Example:
        >>> import jax.numpy as jnp
        >>> Y = jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(1.0, 4.0)).at[2, 1].set(jnp.nan)
        >>> float(soft_impute(Y, None, 0.01).M[2, 1].round(1))
        6.0
    """
    check_given(lam=lam)
    Y, W, dtype = validation.table(Y, W, validate=validate)
    (lam,) = validation.numbers(Y.dtype, lam=lam)
    if lam.ndim:
        raise ValueError(f"lam has shape {lam.shape}; expected a number: soft_impute_path takes several")
    start, method = _prepared(Y, ridge, tol, init)
    static = _Static(max_iter, check_every, accelerate, loop)
    return _cast(_solve(Y, W, lam, start, method, static), dtype)


def soft_impute_path(
    Y: Any,
    W: Any = None,
    lams: Any = None,
    *,
    ridge: Number = 0.0,
    tol: Number | None = None,
    max_iter: int = 1000,
    accelerate: bool = True,
    init: Any = None,
    check_every: int = 10,
    validate: bool = True,
) -> CompletionResult:
    """`soft_impute` for every value of lam, each started from the one before: one compiled `jax.lax.scan`.

    Args:
        Y: as in `soft_impute`.
        W: as in `soft_impute`.
        lams: >= 0, (L,), best descending from `groups.lambda_max`; required.
        ridge: as in `soft_impute`.
        tol: as in `soft_impute`.
        max_iter: iterations at most for each value (static).
        accelerate: as in `soft_impute`.
        init: where the first starts.
        check_every: as in `soft_impute`.
        validate: as in `soft_impute`.

    Returns:
        A result with a leading axis of length L on every field.

    Raises:
        ValueError: for bad input, naming the argument.

    Example:
        >>> import jax.numpy as jnp
        >>> Y = jnp.eye(3).at[0, 1].set(jnp.nan)
        >>> soft_impute_path(Y, None, jnp.array([1.0, 0.5])).M.shape
        (2, 3, 3)
    """
    check_given(lams=lams)
    Y, W, dtype = validation.table(Y, W, validate=validate)
    lams = validation.lambda_grid(lams, Y.dtype)
    start, method = _prepared(Y, ridge, tol, init)
    static = _Static(max_iter, check_every, accelerate, "while")
    return _cast(_path(Y, W, lams, start, method, static), dtype)


class SoftImpute(eqx.Module):
    """`soft_impute_path` with its options: what `cv_lambda` and its neighbours take as a solver.

    Attributes:
        ridge: as in `soft_impute`.
        tol: as in `soft_impute`.
        max_iter: as in `soft_impute` (static).
        accelerate: as in `soft_impute` (static).
    """

    ridge: Number = eqx.field(converter=jnp.asarray, default=0.0)
    tol: Number = eqx.field(converter=jnp.asarray, default=1e-3)
    max_iter: int = eqx.field(static=True, default=1000)
    accelerate: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        validation.numbers(float, ridge=self.ridge, tol=self.tol)

    def lambda_max(self, Y: Float[Array, "n d"], W: Float[Array, "n d"]) -> Float[Array, ""]:
        """The least lam at which the completion is 0."""
        return spectral_norm(W * Y)

    def __call__(self, Y: Float[Array, "n d"], W: Float[Array, "n d"], lams: Float[Array, " L"]) -> CompletionResult:
        """The path, for checked data."""
        method = _Method(jnp.asarray(self.ridge, Y.dtype), jnp.asarray(self.tol, Y.dtype))
        static = _Static(self.max_iter, 10, self.accelerate, "while")
        return _path(Y, W, lams, jnp.zeros_like(Y), method, static)


class _Method(NamedTuple):
    ridge: Array
    tol: Array


class _Static(NamedTuple):
    max_iter: int
    check_every: int
    accelerate: bool
    loop: str


def _prepared(Y: Array, ridge: Any, tol: Any, init: Any) -> tuple[Array, _Method]:
    ridge, tol = validation.numbers(Y.dtype, ridge=ridge, tol=default_tol(tol, Y.dtype, single=1e-4, double=1e-5))
    if isinstance(init, CompletionResult):
        init = init.M
    start = jnp.zeros_like(Y) if init is None else validation.start("init", init, Y)
    return start, _Method(ridge, tol)


def _cast(result: CompletionResult, dtype: Any) -> CompletionResult:
    return eqx.tree_at(lambda r: r.M, result, result.M.astype(dtype))


@eqx.filter_jit
def _solve(Y: Array, W: Array, lam: Array, start: Array, method: _Method, static: _Static) -> CompletionResult:
    return _completed(scaled_problem(Y, W, method.ridge), lam, start, method.tol, static)


@eqx.filter_jit
def _path(Y: Array, W: Array, lams: Array, start: Array, method: _Method, static: _Static) -> CompletionResult:
    problem = scaled_problem(Y, W, method.ridge)

    def advance(M: Array, lam: Array) -> tuple[Array, CompletionResult]:
        result = _completed(problem, lam, M, method.tol, static)
        return result.M, result

    return jax.lax.scan(advance, start, lams)[1]


def _completed(problem: TableProblem, lam: Array, start: Array, tol: Array, static: _Static) -> CompletionResult:
    threshold = lam / problem.scale / problem.unit
    blocks = unfoldings(start.shape, threshold[None], [(0,)])
    curvature = jnp.max(problem.W) + problem.ridge
    curvature = jnp.where(curvature > 0, curvature, 1)
    fit = accelerated_proximal_gradient(
        _Loss(problem),
        _Shrink(threshold),
        jnp.where(problem.observed, start / problem.scale, 0),
        step=1 / curvature,
        certificate=_Certificate(problem, blocks),
        check_every=static.check_every,
        restart="gradient" if static.accelerate else "always",
        tol=tol,
        max_iter=static.max_iter,
        loop=static.loop,
    )
    status = stalled_at_rounding(fit.state.status, fit.gap)
    _, grad = _Loss(problem)(fit.x)
    run = Run(fit.x, _dual(blocks[0], grad), fit.iterations, status)
    state = MatrixState(fit.x * problem.scale, (), (curvature * problem.unit)[None])
    return finished(problem, blocks, run, state, lam)


def _dual(block: Block, grad: Array) -> tuple[Array]:
    """``V = W (Y - M) - ridge M``, the dual point that certifies M."""
    return (block.gather(block.data, -grad),)


class _Loss(eqx.Module):
    problem: TableProblem

    def __call__(self, M: Array) -> tuple[Array, Array]:
        value = self.problem.data_term.value(self.problem.data_term.data, M)
        return value, self.problem.W * (M - self.problem.Y) + self.problem.ridge * M


class _Shrink(eqx.Module):
    threshold: Array

    def __call__(self, v: Array, step: Array) -> Array:
        return svt(v, self.threshold * step, method=accurate_engine(v.dtype))


class _Certificate(eqx.Module):
    problem: TableProblem
    blocks: tuple[Block, ...]

    def __call__(self, M: Array, grad: Array) -> Array:
        bounds = certificate(self.blocks, self.problem.data_term, M, _dual(self.blocks[0], grad))
        return self.problem.relative_gap(*bounds)


def debias(Y: Any, W: Any, U: Any, V: Any, *, validate: bool = True) -> Float[Array, "n d"]:
    """``M = sum_k b_k u_k v_k^T`` with ``b = argmin 1/2 sum W (Y - M)^2`` of least norm: singular values refitted.

    A nuclear norm shrinks every singular value; this keeps the vectors that it found and undoes the shrinkage.

    Args:
        Y: data, (n, d); NaN allowed where not observed.
        W: weights >= 0, 0 = missing; None: 1 where Y is finite.
        U: left singular vectors, as columns, (n, k).
        V: right singular vectors, as columns, (d, k).
        validate: whether to look at the values of Y and W (static).

    Returns:
        The refitted matrix; zeros for k = 0. Memory: k + 1 tables.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> Y = jnp.array([[2.0, 1.0], [4.0, jnp.nan]])
        >>> debias(Y, None, jnp.array([[1.0], [2.0]]), jnp.array([[2.0], [1.0]])).round(3)
        Array([[2., 1.],
               [4., 2.]], dtype=float32)
    """
    Y, W, dtype = validation.table(Y, W, validate=validate)
    U, V = jnp.asarray(U, Y.dtype), jnp.asarray(V, Y.dtype)
    (n, d), k = Y.shape, U.shape[-1] if U.ndim else 0
    if U.shape != (n, k) or V.shape != (d, k):
        raise ValueError(f"U and V have shapes {U.shape} and {V.shape}; expected ({n}, k) and ({d}, k)")
    return (_refit(Y, W, U, V) if k else jnp.zeros_like(Y)).astype(dtype)


@jax.jit
def _refit(Y: Array, W: Array, U: Array, V: Array) -> Array:
    k = U.shape[-1]
    problem = scaled_problem(Y, W, jnp.zeros((), Y.dtype))
    root = jnp.sqrt(problem.W).reshape(-1, 1)
    design = root * (U[:, None] * V).reshape(-1, k)
    # The triangle of [A y] holds R and Q^T y: least squares without forming A^T A, whose condition number is squared.
    system = jnp.concatenate([design, root * problem.Y.reshape(-1, 1)], axis=1)
    triangle = decompositions.short_triangle(jnp.concatenate([system, jnp.zeros((k + 1, k + 1), Y.dtype)]))
    inverse = spectral_map(triangle[:k, :k], lambda s: safe_divide(1, s)).mT
    return matmul(U * matmul(inverse, triangle[:k, k]), V.T) * problem.scale

"""Group-aware matrix completion (GAME): overlapping nuclear norms of groups of rows, by the consensus ADMM.

``min_M 1/2 sum_ij W_ij (Y_ij - M_ij)^2 + ridge/2 ||M||_F^2 + sum_g lambda_g ||S_g M||_*``, stopped on its duality gap.

Reference: Golubovic, Shen, Allen, Zikry, "Group-Aware Matrix Estimation and Latent Subspace Recovery",
arXiv:2605.20559, 2026 (the class of estimators; scaling, weights and solver are this library's).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxspec.checks import check_given, check_numbers, warn_caller
from jaxspec.completion import validation
from jaxspec.completion.group_blocks import group_blocks
from jaxspec.completion.group_layout import Layout, by_group, check_groups, layout
from jaxspec.completion.groups import Groups, largest_lambda, weights_of
from jaxspec.completion.result import CompletionResult, MatrixState
from jaxspec.completion.table_problem import Run, TableProblem, accurate_engine, finished, scaled_problem
from jaxspec.linalg import ordered, spectral_norm
from jaxspec.linalg.scaling import safe_divide
from jaxspec.solvers import ADMMState, Block, Displacement, Gap, consensus_admm
from jaxspec.solvers.loop import CONVERGED, as_traced
from jaxspec.solvers.penalties import limit_of
from jaxspec.solvers.state import initial_state
from jaxspec.solvers.stopping import default_tol, safe_ratio

Number = float | int | Float[Array, ""]


def game(
    Y: Any,
    W: Any = None,
    groups: Groups | None = None,
    lam: Any = None,
    *,
    ridge: Number = 0.0,
    over_relaxation: Number = 1.6,
    penalty: Any = Displacement(),  # noqa: B008 (frozen)
    rho: Number | None = None,
    tol: Number | None = None,
    max_iter: int = 2000,
    check_every: int = 10,
    init: Any = None,
    svt: str = "auto",
    loop: str = "while",
    validate: bool = True,
) -> CompletionResult:
    r"""``min_M 1/2 sum W (Y - M)^2 + ridge/2 ||M||_F^2 + sum_g lambda_g ||S_g M||_*``: what groups of rows share.

    The gap is rigorous: ``V_g = -rho_g u_g`` sum to ``W Y - (W + ridge) M`` after every iteration and one common factor
    makes them feasible. Memory: about ``6 n d + 6 sum_g n_g d`` numbers.

    Args:
        Y: data, (n, d); NaN allowed where not observed. float16 and bfloat16 are computed in float32 and cast back,
            integers become float32.
        W: weights >= 0, (n, d), 0 = missing (boolean or numbers); None: 1 where Y is finite.
        groups: of the rows, from `make_groups`; required. Rows in no group keep their observed entries; the others
            become 0.
        lam: >= 0, in the units of Y times those of W; required: a number (``lambda_g = lam * game_weights(W, groups)``,
            so about the noise level) or (G,), used as given. A group of weight 0 is left out. The norms shrink towards
            0, so subtract the means of the columns before, as `fit_table` does. See `cv_lambda`.
        ridge: >= 0, in the units of W.
        over_relaxation: in (0, 2).
        penalty: policy, see `jaxspec.solvers.penalties`.
        rho: first penalty, in the units of W; None: the mean over groups of ``lambda_g / ||S_g Y||_2``.
        tol: relative duality gap at which to stop; None: 1e-5 in float64, 1e-4 in float32, where rounding leaves gaps
            of 1e-6 to 1e-4, the more the larger the mean of the data.
        max_iter: iterations at most (static).
        check_every: iterations between two looks at the gap, each of which costs one SVD per group (static).
        init: None: start at 0; an (n, d) array; or a `CompletionResult` for the same groups, with its duals and
            penalties.
        svt: engine of the thresholding: ``"gram"``, ``"qr"``, ``"svd"``, or ``"auto"``: QR in single precision,
            else as in `jaxspec.prox.svt` (static).
        loop: ``"while"``, or ``"scan"``: fixed length and reverse-mode differentiable (static).
        validate: whether to look at the values of Y and W (static). Under `jax.jit` the check gathers sharded data.

    Returns:
        The completion with its certificate. A run that did not converge says so in ``status`` and ``stalled``. Slow are
        instances at which lam sits where the ranks of several groups change at once: singular values of about 1e-5 at
        the optimum, whose duals have norm lambda_g all the same. There the gap creeps while M is long settled (a 24 x 5
        case of that kind: M within 1e-6 of the optimal value after 100 iterations, the gap below 1e-6 after 1100; 10%
        less lam: gap 1e-8 after 110). A ridge, a slightly other lam, or a looser tol avoids it. All missing: zeros and
        status 4.

    Raises:
        ValueError: for bad input, naming the argument.
        TypeError: for complex input.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxspec.completion import make_groups
        >>> Y = jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(1.0, 4.0)).at[2, 1].set(jnp.nan)
        >>> result = game(Y, None, make_groups([[0, 1, 2], [1, 2, 3]], 4), 0.001)
        >>> float(result.M[2, 1].round(1))
        6.0
    """
    check_groups(groups)
    check_given(lam=lam)
    Y, W, dtype = validation.table(Y, W, validate=validate)
    (lam,) = validation.numbers(Y.dtype, lam=lam)
    if lam.shape not in ((), (len(groups),)):
        raise ValueError(f"lam has shape {lam.shape}; expected a number or ({len(groups)},), one per group")
    where = _layout(groups, Y, validate)
    if lam.ndim == 0:
        lam = _weighted(lam, W, where, where.factors)
    method = _method(Y.dtype, ridge, over_relaxation, penalty, tol)
    check_numbers(0, ends="()", rho=rho)
    start = _start(init, Y, where, None if rho is None else jnp.asarray(rho, Y.dtype))
    result = _solve(Y, W, where, lam, start, method, static=_Static(max_iter, check_every, svt, loop))
    return eqx.tree_at(lambda r: r.M, result, result.M.astype(dtype))


def game_path(
    Y: Any,
    W: Any = None,
    groups: Groups | None = None,
    lams: Any = None,
    *,
    ridge: Number = 0.0,
    over_relaxation: Number = 1.6,
    penalty: Any = Displacement(),  # noqa: B008 (frozen)
    tol: Number | None = None,
    max_iter: int = 2000,
    check_every: int = 10,
    svt: str = "auto",
    validate: bool = True,
) -> CompletionResult:
    """`game` for every value of lam, each started from the solution, duals and penalties before: one `jax.lax.scan`.

    Args:
        Y: as in `game`.
        W: as in `game`.
        groups: as in `game`.
        lams: >= 0, (L,), best descending from `groups.lambda_max`: ``lambda_g = lam * game_weights(W, groups)``;
            required.
        ridge: as in `game`.
        over_relaxation: as in `game`.
        penalty: as in `game`.
        tol: as in `game`.
        max_iter: iterations at most for each value (static).
        check_every: as in `game`.
        svt: as in `game`.
        validate: as in `game`.

    Returns:
        A result with a leading axis of length L on every field.

    Raises:
        ValueError: for bad input, naming the argument.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxspec.completion import make_groups
        >>> from jaxspec.completion.groups import lambda_max
        >>> Y, groups = jnp.eye(4).at[0, 1].set(jnp.nan), make_groups([[0, 1, 2], [2, 3]], 4)
        >>> result = game_path(Y, None, groups, lambda_max(Y, None, groups) * jnp.array([1.0, 0.5]))
        >>> result.M.shape, float(abs(result.M[0]).max())
        ((2, 4, 4), 0.0)
    """
    check_groups(groups)
    check_given(lams=lams)
    Y, W, dtype = validation.table(Y, W, validate=validate)
    lams = validation.lambda_grid(lams, Y.dtype)
    where = _layout(groups, Y, validate)
    method = _method(Y.dtype, ridge, over_relaxation, penalty, tol)
    static = _Static(max_iter, check_every, svt, "while")
    lams = _weighted(lams, W, where, where.factors)
    result = path(Y, W, where, lams, _start(None, Y, where, None), method, static=static)
    return eqx.tree_at(lambda r: r.M, result, result.M.astype(dtype))


def _as_layout(groups: Any) -> Layout:
    if isinstance(groups, Layout):
        return groups
    check_groups(groups)
    return layout(groups)


class Game(eqx.Module):
    """`game_path` with its options: what `cv_lambda` and its neighbours take as a solver.

    Attributes:
        groups: of the rows, `Groups` or their layout; kept as a layout.
        ridge: as in `game`.
        tol: as in `game`.
        max_iter: as in `game` (static).
    """

    groups: Layout = eqx.field(converter=_as_layout)
    ridge: Number = eqx.field(converter=jnp.asarray, default=0.0)
    tol: Number = eqx.field(converter=jnp.asarray, default=1e-3)
    max_iter: int = eqx.field(static=True, default=2000)

    def __check_init__(self):
        validation.numbers(float, ridge=self.ridge, tol=self.tol)

    def lambda_max(self, Y: Float[Array, "n d"], W: Float[Array, "n d"]) -> Float[Array, ""]:
        """A lam at which the completion is 0."""
        return largest_lambda(Y, W, self.groups, self.groups.factors)

    def __call__(self, Y: Float[Array, "n d"], W: Float[Array, "n d"], lams: Float[Array, " L"]) -> CompletionResult:
        """The path, for checked data."""
        if self.groups.n != Y.shape[0]:
            raise ValueError(f"Y has shape {Y.shape}; expected {self.groups.n} rows, as groups")
        lams = _weighted(lams, W, self.groups, self.groups.factors)
        ridge, kappa, tol = (jnp.asarray(number, Y.dtype) for number in (self.ridge, 1.6, self.tol))
        method = _Method(ridge, kappa, as_traced(Displacement(), Y.dtype), tol)
        static = _Static(self.max_iter, 5, "auto", "while")
        return path(Y, W, self.groups, lams, _start(None, Y, self.groups, None), method, static=static)


class _Method(NamedTuple):
    ridge: Array
    over_relaxation: Array
    penalty: Any
    tol: Array


class _Static(NamedTuple):
    max_iter: int
    check_every: int
    svt: str
    loop: str


def _method(dtype: Any, ridge: Any, over_relaxation: Any, penalty: Any, tol: Any) -> _Method:
    ridge, tol = validation.numbers(dtype, ridge=ridge, tol=default_tol(tol, dtype, single=1e-4, double=1e-5))
    validation.options(None, None, over_relaxation, None, None)
    return _Method(ridge, jnp.asarray(over_relaxation, dtype), as_traced(penalty, dtype), tol)


def _layout(groups: Groups, Y: Array, validate: bool) -> Layout:
    if groups.n != Y.shape[0]:
        raise ValueError(f"groups is of {groups.n} rows; expected {Y.shape[0]}, as Y")
    covered = np.zeros(groups.n, bool)
    for rows, factor in zip(groups.rows, groups.factors, strict=True):
        covered[rows] |= factor > 0
    if validate and not covered.all():
        alone = np.flatnonzero(~covered)
        shown = ", ".join(map(str, alone[:5])) + (", ..." if alone.size > 5 else "")
        warn_caller(f"rows in no group: {shown}; their observed entries stay as they are, the others are 0")
    return layout(groups)


def _start(init: Any, Y: Array, where: Layout, rho: Array | None) -> MatrixState:
    """Matrix, duals and penalties to start from; a penalty of 0 stands for the one that the data suggest."""
    blocks = jax.eval_shape(lambda: [b.gather(b.data, Y) for b in group_blocks(where, where.factors)])
    cold = MatrixState(
        jnp.zeros_like(Y), tuple(jnp.zeros(b.shape, Y.dtype) for b in blocks), jnp.zeros(len(blocks), Y.dtype)
    )
    state = cold
    if isinstance(init, CompletionResult):
        if init.state is None:
            raise ValueError("init is a result without a state; expected one with")
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf, Y.dtype), init.state)
        own, shapes = [dual.shape for dual in state.duals], [block.shape for block in blocks]
        if not own:  # of soft-impute
            state = cold._replace(M=state.M)
        if state.M.shape != Y.shape or (own and own != shapes):
            own = [state.M.shape, *own]
            raise ValueError(f"init is a result of shapes {own}; expected one for the same table and groups")
    elif init is not None:
        state = cold._replace(M=validation.start("init", init, Y))
    return state if rho is None else state._replace(rho=jnp.full_like(state.rho, rho))


@jax.jit
def _weighted(lam: Array, W: Array, where: Layout, factors: Array) -> Array:
    return lam[..., None] * weights_of(W, where, factors).astype(lam.dtype)


@eqx.filter_jit
def _solve(
    Y: Array, W: Array, where: Layout, lam: Array, start: MatrixState, method: _Method, *, static: _Static
) -> CompletionResult:
    return _completed(scaled_problem(Y, W, method.ridge), where, lam, start, method, static)


@eqx.filter_jit
def path(
    Y: Array, W: Array, where: Layout, lams: Array, start: MatrixState, method: _Method, *, static: _Static
) -> CompletionResult:
    """`game` for each row of ``lams``, each started from the one before; nothing is checked.

    Args:
        Y: data, 0 where not observed.
        W: weights.
        where: layout of the groups.
        lams: weights of the groups, (L, G).
        start: of the first.
        method: numbers of the method.
        static: options of the method.

    Returns:
        A result with a leading axis of length L on every field.
    """
    problem = scaled_problem(Y, W, method.ridge)

    def advance(before: tuple[MatrixState, Array], lam: Array) -> tuple[tuple[MatrixState, Array], CompletionResult]:
        state, size = before[0], jnp.sum(lam)
        # Duals have the norm lambda_g wherever they are active, and penalties follow them.
        ratio = safe_divide(size, before[1], 1)
        state = state._replace(duals=tuple(ratio * dual for dual in state.duals), rho=ratio * state.rho)
        result = _completed(problem, where, lam, state, method, static)
        return (result.state, size), result

    return jax.lax.scan(advance, (start, jnp.zeros((), lams.dtype)), lams)[1]


def _first_penalty(problem: TableProblem, where: Layout, lam: Array) -> Array:
    """``mean_g lambda_g / ||S_g Y||_2`` over the groups in use with data: first thresholds of the size of the data."""
    norms = by_group(problem.Y, where, spectral_norm)
    used = (norms > 0) & (lam > 0)
    mean = jnp.sum(jnp.where(used, lam / jnp.where(used, norms, 1), 0)) / jnp.maximum(jnp.sum(used), 1)
    return jnp.where(mean > 0, mean, 1)


def _completed(
    problem: TableProblem, where: Layout, lam: Array, start: MatrixState, method: _Method, static: _Static
) -> CompletionResult:
    scaled = lam / problem.scale / problem.unit
    blocks = group_blocks(where, scaled, accurate_engine(lam.dtype, static.svt))
    if not blocks:
        return _closed_form(problem, start, lam)
    covered = sum(block.count for block in blocks) > 0
    x0 = jnp.where(covered & problem.observed, start.M / problem.scale, 0)
    suggested = _first_penalty(problem, where, ordered(scaled, x0))
    initial = _initial(problem, blocks, x0, start, suggested, method)
    state, info = consensus_admm(
        blocks,
        problem.data_term,
        x0,
        rho=initial.rho,
        over_relaxation=method.over_relaxation,
        penalty=method.penalty,
        stop=Gap(method.tol),
        check_every=static.check_every,
        max_iter=static.max_iter,
        state=initial,
        history=False,
        loop=static.loop,
    )
    data = MatrixState(
        state.x * problem.scale,
        tuple(w * problem.scale * problem.unit for w in state.duals),
        info.rho * problem.unit,
    )
    return finished(problem, blocks, Run(state.x, state.duals, info.iterations, info.status), data, lam)


def _initial(
    problem: TableProblem,
    blocks: tuple[Block, ...],
    x0: Array,
    start: MatrixState,
    suggested: Array,
    method: _Method,
) -> ADMMState:
    # Rounding of eps s_max in a thresholded matrix is eps rho / suggested of the bound of its dual: a larger
    # penalty than this would keep the gap above tol. It matters in single precision only.
    precise = jnp.maximum(10, method.tol / (10 * jnp.finfo(x0.dtype).eps))
    rho = jnp.where(start.rho > 0, jnp.minimum(start.rho / problem.unit, precise * suggested), suggested)
    # Where singular values are born or die, duals move while M rests and the policy raises rho a hundredfold: up to 180
    # iterations to a gap of 1e-3, 30 with the bound 10. The last digits of slow instances want larger penalties.
    most = suggested * jnp.clip(safe_ratio(jnp.asarray(0.1, x0.dtype), jnp.sqrt(method.tol)), 10, precise)
    duals = [w / problem.scale / problem.unit for w in start.duals]
    state = initial_state(blocks, x0, rho=rho, penalty=method.penalty, duals=duals)
    limit = limit_of(method.penalty)
    # The engine keeps rho within a factor ``limit`` of rho0, which therefore says how large it may become.
    return state if limit == float("inf") else state._replace(rho0=jnp.minimum(rho, jnp.maximum(most, rho) / limit))


def _closed_form(problem: TableProblem, start: MatrixState, lam: Array) -> CompletionResult:
    """Without a group nothing couples the entries: ``M = W Y / (W + ridge)``, 0 where nothing is known."""
    curvature = problem.W + problem.ridge
    M = safe_divide(problem.W * problem.Y, curvature)
    run = Run(M, (), jnp.zeros((), jnp.int32), jnp.asarray(CONVERGED, jnp.int32))
    return finished(problem, (), run, start._replace(M=M * problem.scale), lam)

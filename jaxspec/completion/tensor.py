"""Tensor completion: ``min sum_i alpha_i ||A_i X||_*`` over tensors that agree with the observed entries, or nearly so.

(C) exact: P(X) = P(T);  (N) noisy: ``1/2 ||P(X - T)||_F^2 + lam sum_i alpha_i ||A_i X||_*``. Both are data for
`jaxspec.solvers.consensus_admm`: this module scales the data, chooses the first penalty and the start, and undoes the
scaling.

Reference: "Low rank tensor completion via adaptive ADMM", 2026; Liu, Musialski, Wonka, Ye, PAMI 2013 (the convex
program).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.checks import check_numbers
from jaxspec.completion import blocks as regularisers
from jaxspec.completion import validation
from jaxspec.completion.metrics import TruthError
from jaxspec.completion.result import TensorCompletion
from jaxspec.completion.scaled import Problem, ScaledProblem, data_scale, first_penalty, positive_lam, rescale
from jaxspec.completion.warm_start import WarmStart, polar_duals
from jaxspec.linalg import spectral_norm
from jaxspec.solvers import ADMMState, Block, Displacement, Residual, consensus_admm
from jaxspec.solvers.admm import certificate as admm_certificate
from jaxspec.solvers.loop import EMPTY, History, as_traced
from jaxspec.solvers.state import initial_state
from jaxspec.solvers.stopping import Residuals, default_tol, safe_ratio

Number = float | int | Float[Array, ""]
Regularizer = str | Sequence[Block]


def complete_tensor(
    tensor: Any,
    mask: Any = None,
    *,
    weights: Any = None,
    regularizer: Regularizer = "snn",
    lam: Number | None = None,
    obs_weights: Any = None,
    lower: Number | None = None,
    upper: Number | None = None,
    over_relaxation: Number = 1.6,
    penalty: Any = Displacement(),  # noqa: B008 (frozen)
    rho: Any = None,
    rho_scale: Number | None = None,
    init: Any = None,
    svt: str = "auto",
    tol: Number | None = None,
    stop: Any = None,
    max_iter: int = 500,
    check_every: int = 1,
    truth: Any = None,
    certificate: bool = False,
    history: bool = True,
    loop: str = "while",
    validate: bool = True,
    raise_on_failure: bool = False,
) -> TensorCompletion:
    r"""Fills in a partially observed tensor by a convex program, to a certified optimum.

    ``min_X R(X) s.t. X = T where observed`` (lam None), or ``min_X 1/2 sum w (X - T)^2 + lam R(X)``, with
    ``R(X) = sum_i alpha_i ||A_i X||_*`` by default. Works on T divided by the power of two of its size, so that any
    unit does, and ``T -> 2^k T`` changes no bit. Memory: about 8 m + 6 tensors for m unfoldings.

    Args:
        tensor: N >= 2 modes; integers are promoted to float32, float16 and bfloat16 are computed in float32 and cast
            back.
        mask: True (or 1) where observed; None: where ``tensor`` is finite. What stands elsewhere is never read.
        weights: alpha_i >= 0, one per unfolding, normalised to sum 1; None: equal (``"tt"``: by the shorter side).
        regularizer: ``"snn"`` (all single-mode unfoldings), ``"tt"`` (tensor train), ``"square"``, ``"tubal"``, or
            blocks from `jaxspec.completion.blocks`.
        lam: None or 0: exact; > 0: noisy, in the units of the data. The norms shrink towards 0, so subtract a level
            that all entries share (``jnp.nanmean(tensor)``) before. See `choose_lam`.
        obs_weights: w >= 0 per entry, noisy form only; 0 is the same as not observed.
        lower: least value of an entry that is not observed (noisy form: of any entry).
        upper: largest such value.
        over_relaxation: in (0, 2).
        penalty: policy, see `jaxspec.solvers.penalties`.
        rho: first penalty, scalar or one per block, in the units of the data; None: ``rho_scale`` times the penalty
            whose first threshold is the largest singular value.
        rho_scale: factor of that; None: 1, and 10 for a start without duals.
        init: None; an array broadcastable to the tensor; a `WarmStart`; or a `TensorCompletion` to resume bit for bit
            (a baseline without a state: to start from, with its duals).
        svt: engine of the thresholding for named regularisers: ``"auto"``, ``"gram"``, ``"qr"``, ``"svd"``.
        tol: relative residuals at which to stop; None: 1e-6 in float64, 1e-4 in float32, where rounding leaves
            residuals of 1e-6 to 1e-4: a run that ends there, above ``tol``, has ``info.stalled`` and status 2.
        stop: another stopping rule, e.g. `jaxspec.solvers.Gap`, instead of ``tol``.
        max_iter: iterations at most in this call (static).
        check_every: iterations between two looks at the stopping rule (static).
        truth: true tensor; its NMSE is then recorded per iteration as ``history["nmse"]``.
        certificate: whether to compute the duality gap of the result (``info.gap``).
        history: whether to record residuals, penalties and the objective per iteration.
        loop: ``"while"``, or ``"scan"``: fixed length and reverse-mode differentiable.
        validate: whether to look at the values of the input (skipped under a trace).
        raise_on_failure: whether to raise if the run does not converge (needs concrete input).

    Returns:
        The completed tensor with duals, residuals, history and the state to resume. ``info`` says how the run
        ended (`TensorCompletion`); a tensor without observed entries gives zeros and status 4.

    Raises:
        ValueError: for bad input, naming the argument, the value and what was expected.
        TypeError: for complex input.
        RuntimeError: with ``raise_on_failure``, if the run did not converge.

    Example:
        >>> import jax.numpy as jnp
        >>> truth = jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(1.0, 4.0))
        >>> result = complete_tensor(truth, mask=jnp.ones((4, 3), bool).at[2, 1].set(False))
        >>> bool(jnp.abs(result.tensor - truth).max() < 1e-2)
        True
    """
    # The named regularisers but the tubal one are nuclear norms of matrices that hold a slice as rows or columns.
    zeros = isinstance(regularizer, str) and regularizer != "tubal"
    tensor, mask, dtype = validation.observations(tensor, mask, validate, zero_slices=zeros)
    validation.options(lam, obs_weights, over_relaxation, tol, stop)
    check_numbers(0, ends="()", rho=rho, rho_scale=rho_scale)
    validation.box(lower, upper)
    blocks = build_blocks(tensor.shape, regularizer, weights, svt)
    lam = positive_lam(lam, tensor.dtype)
    problem = Problem(
        tensor=tensor,
        mask=mask,
        obs_weights=validation.observation_weights(obs_weights, tensor, validate),
        lam=lam,
        box=tuple(None if bound is None else jnp.asarray(bound, tensor.dtype) for bound in (lower, upper)),
        truth=None if truth is None else validation.like("truth", truth, tensor, where=False),
    )
    start = _start(init, rho, rho_scale, problem, blocks)
    stop = Residual(default_tol(tol, tensor.dtype, single=1e-4)) if stop is None else stop
    penalty, stop = as_traced((penalty, stop), tensor.dtype)
    static = _Static(max_iter, check_every, certificate, history, loop)
    method = _Method(jnp.asarray(over_relaxation, tensor.dtype), penalty, stop)
    result = _solve(problem, blocks, start, method, static)
    result = eqx.tree_at(lambda r: r.tensor, result, result.tensor.astype(dtype))
    if raise_on_failure:
        validation.raise_unless_converged(result.info)
    return result


def build_blocks(shape: Sequence[int], regularizer: Regularizer, weights: Any, method: str) -> tuple[Block, ...]:
    """Blocks of a named regulariser, with weights normalised to sum 1.

    Args:
        shape: of the tensor.
        regularizer: as in `complete_tensor`.
        weights: as in `complete_tensor`.
        method: engine of the thresholding.

    Returns:
        The blocks.

    Raises:
        ValueError: for an unknown name, or weights that the regulariser does not take.
    """
    if not isinstance(regularizer, str):
        if not regularizer:
            raise ValueError("regularizer is empty; expected at least one block")
        if weights is not None:
            raise ValueError("weights are given with a sequence of blocks; expected None: blocks carry their own")
        return tuple(regularizer)
    if regularizer in ("square", "tubal"):
        if weights is not None:
            raise ValueError(f"weights are given with regularizer {regularizer!r}; expected None: it has one term")
        return regularisers.square(shape, method=method) if regularizer == "square" else regularisers.tubal(shape)
    if regularizer not in ("snn", "tt"):
        raise ValueError(f"regularizer is {regularizer!r}; expected 'snn', 'tt', 'square', 'tubal' or blocks")
    if regularizer == "tt" and weights is None:
        return regularisers.tensor_train(shape, method=method)
    modes = None if regularizer == "snn" else [tuple(range(k)) for k in range(1, len(shape))]
    if weights is not None:
        weights = validation.normalised_weights(weights, len(shape) if modes is None else len(modes))
    return regularisers.unfoldings(shape, weights, modes, method=method)


class DualityGap(NamedTuple):
    """A certificate of optimality.

    Attributes:
        primal: objective of the (feasible) result.
        dual: lower bound of the optimum.
        relative: (primal - dual) / |primal|, finite even where ``primal`` overflows.
    """

    primal: Float[Array, ""]
    dual: Float[Array, ""]
    relative: Float[Array, ""]


def duality_gap(
    result: Any,
    tensor: Any,
    mask: Any = None,
    weights: Any = None,
    lam: Number | None = None,
    *,
    regularizer: Regularizer = "snn",
    obs_weights: Any = None,
    lower: Number | None = None,
    upper: Number | None = None,
) -> DualityGap:
    """Gap of any completion of the problem that `complete_tensor` solves with the same arguments, baselines included.

    Args:
        result: has the fields ``tensor`` and ``duals`` (one array per block; they are corrected to the support of the
            data).
        tensor: as given to `complete_tensor`.
        mask: as given to `complete_tensor`.
        weights: as given to `complete_tensor`.
        lam: as given to `complete_tensor`.
        regularizer: as given to `complete_tensor`.
        obs_weights: as given to `complete_tensor`.
        lower: as given to `complete_tensor`.
        upper: as given to `complete_tensor`.

    Returns:
        The gap; 0 at the optimum, else at least the distance of the objective from it.
    """
    tensor, mask, _ = validation.observations(tensor, mask, True)
    obs_weights = validation.observation_weights(obs_weights, tensor, True)
    validation.options(lam, obs_weights, 1.0, None, None)
    validation.box(lower, upper)
    box = tuple(None if bound is None else jnp.asarray(bound, tensor.dtype) for bound in (lower, upper))
    problem = Problem(tensor, mask, obs_weights, positive_lam(lam, tensor.dtype), box, None)
    blocks = build_blocks(tensor.shape, regularizer, weights, "auto")
    return _gap(problem, blocks, jnp.asarray(result.tensor, tensor.dtype), tuple(result.duals))


def lambda_max(tensor: Any, mask: Any = None, weights: Any = None, *, obs_weights: Any = None) -> Float[Array, ""]:
    """``max_i ||A_i P(w T)||_2`` over the unfoldings of positive weight: at any larger lam the completion is 0.

    Args:
        tensor: as given to `complete_tensor`.
        mask: as given to `complete_tensor`.
        weights: as given to `complete_tensor`.
        obs_weights: as given to `complete_tensor`.

    Returns:
        The bound, in the units of the data (sufficient; exact for one unfolding).
    """
    tensor, mask, _ = validation.observations(tensor, mask, True)
    obs_weights = validation.observation_weights(obs_weights, tensor, True)
    data = jnp.where(mask, tensor if obs_weights is None else obs_weights * tensor, 0)
    blocks = build_blocks(tensor.shape, "snn", weights, "auto")
    return jnp.max(jnp.stack([jnp.max(spectral_norm(block.gather(block.data, data))) for block in blocks]))


class _Start(NamedTuple):
    warm: WarmStart | None
    resumed: Any
    rho: Any
    rho_scale: Any


class _Method(NamedTuple):
    over_relaxation: Array
    penalty: Any
    stop: Any


class _Static(NamedTuple):
    max_iter: int
    check_every: int
    certificate: bool
    history: bool
    loop: str


def _start(init: Any, rho: Any, rho_scale: Any, problem: Problem, blocks: tuple[Block, ...]) -> _Start:
    tensor = problem.tensor
    if isinstance(init, TensorCompletion) and init.state is not None:
        validation.resumable(init, tensor, blocks)
        return _Start(None, (init.state, init.scale), None, None)
    if isinstance(init, TensorCompletion):
        init = WarmStart(init.tensor, init.duals or None)
    if init is not None and not isinstance(init, WarmStart):
        init = WarmStart(jnp.asarray(init, tensor.dtype))
    if init is not None:
        check_numbers(0, ends="()", rho_scale=init.rho_scale)
        free = ~problem.mask if problem.lam is None else None  # the exact problem overwrites the other entries
        init = WarmStart(validation.like("init", init.x, tensor, where=free), init.duals, init.rho_scale)
    if rho_scale is None:
        cold = init is None or init.has_duals
        rho_scale = (1.0 if cold else 10.0) if init is None or init.rho_scale is None else init.rho_scale
    if rho is not None and jnp.shape(rho) not in ((), (1,), (len(blocks),)):
        raise ValueError(f"rho has shape {jnp.shape(rho)}; expected a number or ({len(blocks)},), one per block")
    as_array = lambda value: None if value is None else jnp.asarray(value, tensor.dtype)  # noqa: E731
    return _Start(init, None, as_array(rho), as_array(rho_scale))


@eqx.filter_jit
def _solve(
    problem: Problem, blocks: tuple[Block, ...], start: _Start, method: _Method, static: _Static
) -> TensorCompletion:
    scale = data_scale(problem.tensor, problem.mask) if start.resumed is None else start.resumed[1]
    scaled = rescale(problem, blocks, scale)
    state = start.resumed[0] if start.resumed else _first_state(problem, blocks, scaled, start, method.penalty)
    state, info = consensus_admm(
        scaled.blocks,
        scaled.data_term,
        state.x,
        rho=state.rho,
        over_relaxation=method.over_relaxation,
        penalty=method.penalty,
        stop=method.stop,
        check_every=static.check_every,
        max_iter=static.max_iter,
        state=state,
        metrics=None if problem.truth is None else TruthError(problem.truth / scale),
        history=static.history,
        loop=static.loop,
    )
    if static.certificate:
        primal, dual = admm_certificate(scaled.blocks, scaled.data_term, state.x, state.duals)
        # A problem solved at once (nothing missing) has no duals yet, and no gap.
        at_once = info.converged & (info.iterations == 0)
        info = info._replace(gap=jnp.where(at_once, 0, safe_ratio(primal - dual, jnp.abs(primal))))
    history, value_unit, rho_unit = state.history, scaled.dual_unit * scale, scaled.dual_unit / scale
    if history is not None:
        rescaled = {"objective": history["objective"] * value_unit, "rho": history["rho"] * rho_unit}
        history = History({**history.values, **rescaled}, history.count)
    return TensorCompletion(
        tensor=state.x * scale,
        duals=tuple(w * scaled.dual_unit for w in state.duals),
        rho=state.rho * rho_unit,
        info=info._replace(objective=info.objective * value_unit, rho=info.rho * rho_unit),
        history=history,
        scale=scale,
        state=state._replace(history=None),
        blocks=blocks,
    )


def _first_state(
    problem: Problem, blocks: tuple[Block, ...], scaled: ScaledProblem, start: _Start, penalty: Any
) -> ADMMState:
    rho0 = first_penalty(scaled.blocks, scaled.target)
    rho = start.rho_scale * rho0 if start.rho is None else start.rho * scaled.scale / scaled.dual_unit
    fill, duals = jnp.zeros_like(scaled.target), None
    if start.warm is not None:
        fill = start.warm.x / scaled.scale
        if isinstance(start.warm.duals, str) and start.warm.duals == "polar":
            factor = 1.0 if problem.lam is None else problem.lam / scaled.scale
            duals = polar_duals(blocks, fill, scaled.support, rho0, factor)
        elif start.warm.has_duals:
            duals = tuple(jnp.asarray(w, fill.dtype) / scaled.dual_unit for w in start.warm.duals)
    observed = jnp.sum(problem.mask & scaled.support)
    no_box = all(bound is None for bound in problem.box)
    zero = (jnp.max(jnp.abs(scaled.target), initial=0) == 0) & no_box
    complete = (observed == problem.mask.size) & (problem.lam is None)
    x0 = jnp.where(zero, 0, fill)
    if problem.lam is None or start.warm is None:
        x0 = jnp.where(scaled.support, scaled.target, x0)
    state = initial_state(scaled.blocks, x0, rho=rho, penalty=penalty, duals=duals)
    at_once = Residuals(*(jnp.where(zero | complete, 0, value) for value in state.residuals))
    status = jnp.where((observed == 0) & no_box, EMPTY, state.status).astype(jnp.int32)
    return state._replace(residuals=at_once, value=jnp.where(zero, 0, state.value), status=status)


@eqx.filter_jit
def _gap(problem: Problem, blocks: tuple[Block, ...], x: Array, duals: tuple[Array, ...]) -> DualityGap:
    scale = data_scale(problem.tensor, problem.mask)
    scaled = rescale(problem, blocks, scale)
    duals = [w / scaled.dual_unit for w in duals]
    primal, dual = admm_certificate(scaled.blocks, scaled.data_term, x / scale, duals)
    relative = safe_ratio(primal - dual, jnp.abs(primal))
    return DualityGap(primal * scaled.dual_unit * scale, dual * scaled.dual_unit * scale, relative)

"""SiLRTC and FaLRTC: the sum of nuclear norms, smoothed, minimised by (accelerated) proximal gradient steps.

Each ``alpha_i ||A_i X||_*`` is replaced by its Moreau envelope ``min_M alpha_i ||M||_* + gamma_i / 2 ||A_i X - M||_F^2``, whose
gradient ``gamma_i A_i^T (A_i X - M_i)``, ``M_i = SVT(A_i X, alpha_i / gamma_i)``, is gamma_i-Lipschitz. SiLRTC is the plain method with
fixed gamma; FaLRTC the accelerated one with ``mu = 1 / gamma`` falling to a final value. Both end at the optimum of a smoothed
problem, away from that of the sum of nuclear norms by a bias that vanishes only with 1 / gamma.

Reference: Liu, Musialski, Wonka, Ye, "Tensor completion for estimating missing values in visual data", PAMI 2013, algorithms 1, 3.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxspec.completion import validation
from jaxspec.completion.baselines.observed import Number, Observed, as_start, check_number, completion, observed
from jaxspec.completion.result import TensorCompletion
from jaxspec.completion.tensor import build_blocks
from jaxspec.linalg import ordered
from jaxspec.solvers import ADMMInfo, Block, accelerated_proximal_gradient
from jaxspec.solvers.loop import CONVERGED, DIVERGED, RUNNING, History, check_loop_arguments, iterate
from jaxspec.solvers.penalties import block_norms, sum_of_squares
from jaxspec.solvers.proximal_gradient import ProximalGradientState
from jaxspec.solvers.stopping import safe_ratio


def silrtc(
    tensor: Any,
    mask: Any = None,
    *,
    weights: Any = None,
    gamma: Any = None,
    init: Any = None,
    svt: str = "auto",
    tol: Number = 1e-5,
    max_iter: int = 500,
    truth: Any = None,
    history: bool = True,
    validate: bool = True,
) -> TensorCompletion:
    r"""``min sum_i alpha_i ||M_i||_* + gamma_i / 2 ||A_i X - M_i||_F^2 s.t. X = T where observed`` by alternation (SiLRTC).

    ``M_i = SVT(A_i X, alpha_i / gamma_i)``; ``X = sum_i gamma_i A_i^T M_i / sum_i gamma_i`` where not observed.

    Args:
        tensor: N >= 2 modes; as in `complete_tensor`.
        mask: True (or 1) where observed; None: where ``tensor`` is finite.
        weights: alpha_i >= 0, one per mode, normalised to sum 1; None: equal.
        gamma: penalty of ``A_i X = M_i``, > 0, scalar or one per block, in the inverse units of the data; None: 0.1 divided by
            the root mean square of the observed entries (the authors' code has 0.1 for any data).
        init: initial tensor, broadcastable; None: 0 where not observed.
        svt: engine of the thresholding, see `jaxspec.prox.svt`.
        tol: ``||X - X_old|| <= tol ||X||`` at which to stop.
        max_iter: iterations at most (static).
        truth: true tensor; its NMSE is then recorded per iteration.
        history: whether to record residuals, penalties and the objective per iteration.
        validate: whether to look at the values of the input (skipped under a trace).

    Returns:
        The completion with the duals ``W_i = gamma_i (A_i X - M_i)`` in the layout of ``blocks.unfoldings``: exact subgradients of
        ``alpha_i ||.||_*`` at M_i. ``info.primal_residual`` is ``||A X - M|| / max(||A X||, ||M||)`` over all blocks, which does
        not vanish as long as gamma is finite; ``info.dual_residual`` is ``||sum_i A_i^T W_i|| / ||W||`` where not observed, 0 at
        the optimum; ``info.objective`` is ``sum_i alpha_i ||M_i||_*``; ``info.rho`` is gamma. The history has the same at the point
        where each step starts. There is no state to resume: pass the tensor as ``init``.

    Raises:
        ValueError: for bad input, naming the argument, the value and what was expected.
        TypeError: for complex input.

    Reference:
        Liu, Musialski, Wonka, Ye, PAMI 2013, algorithm 1.

    Example:
        >>> import jax.numpy as jnp
        >>> truth = jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(1.0, 4.0))
        >>> result = silrtc(truth, jnp.ones((4, 3), bool).at[2, 1].set(False), gamma=10.0)
        >>> bool(jnp.abs(result.tensor - truth).max() < 0.1)
        True
    """
    tensor, mask, dtype = validation.observations(tensor, mask, validate)
    check_number("gamma", gamma)
    blocks = build_blocks(tensor.shape, "snn", weights, svt)
    smoothing = _Smoothing(_per_block("gamma", gamma, blocks, tensor.dtype), None, jnp.zeros((), tensor.dtype))
    check_number("tol", tol, strict=False)
    static = _Static(_silrtc_penalties, "always", max_iter, history)
    result = _solve(
        tensor,
        mask,
        as_start(init, tensor),
        _truth(truth, tensor),
        blocks,
        smoothing,
        jnp.asarray(tol, tensor.dtype),
        static,
    )
    return eqx.tree_at(lambda r: r.tensor, result, result.tensor.astype(dtype))


def falrtc(
    tensor: Any,
    mask: Any = None,
    *,
    weights: Any = None,
    mu: Any = None,
    mu_start: Any = None,
    decay: Number = 1.15,
    init: Any = None,
    svt: str = "auto",
    tol: Number = 1e-5,
    max_iter: int = 300,
    truth: Any = None,
    history: bool = True,
    validate: bool = True,
) -> TensorCompletion:
    tensor, mask, dtype = validation.observations(tensor, mask, validate)
    check_number("mu", mu)
    check_number("mu_start", mu_start)
    check_number("decay", decay)
    blocks = build_blocks(tensor.shape, "snn", weights, svt)
    final, first = (
        _per_block(name, value, blocks, tensor.dtype) for name, value in (("mu", mu), ("mu_start", mu_start))
    )
    invert = lambda value: None if value is None else 1 / value  # noqa: E731
    smoothing = _Smoothing(invert(final), invert(first), jnp.asarray(decay, tensor.dtype))
    check_number("tol", tol, strict=False)
    static = _Static(_falrtc_penalties, "gradient", max_iter, history)
    result = _solve(
        tensor,
        mask,
        as_start(init, tensor),
        _truth(truth, tensor),
        blocks,
        smoothing,
        jnp.asarray(tol, tensor.dtype),
        static,
    )
    return eqx.tree_at(lambda r: r.tensor, result, result.tensor.astype(dtype))


class _Smoothing(NamedTuple):
    final: Any
    first: Any
    decay: Array


class _Static(NamedTuple):
    penalties: Callable
    restart: str
    max_iter: int
    history: bool


def _truth(truth, tensor):
    return None if truth is None else jnp.asarray(truth, tensor.dtype)


def _per_block(name, value, blocks, dtype):
    if value is None:
        return None
    return jnp.broadcast_to(jnp.asarray(value, dtype), (len(blocks),))


def _silrtc_penalties(smoothing, data, blocks):
    final = (
        jnp.broadcast_to(0.1 / data.rms, (len(blocks),)) if smoothing.final is None else smoothing.final * data.scale
    )
    return final, final


def _falrtc_penalties(smoothing, data, blocks):
    terms = sum(len(block.gather.modes) for block in blocks)
    if smoothing.final is None:
        sides = [min(block.gather(block.data, data.target).shape[-2:]) for block in blocks]
        final = jnp.stack([math.sqrt(side) / (5 * terms * data.rms) for side in sides])
    else:
        final = smoothing.final * data.scale
    if smoothing.first is None:
        gauges, after = [], None
        for block in blocks:
            gauges.append(block.gauge(block.data, ordered(block.gather(block.data, data.start), after)))
            after = gauges[-1]
        first = 1 / (0.3 * jnp.stack(gauges))
    else:
        first = smoothing.first * data.scale
    return final, first


class _State(NamedTuple):
    descent: ProximalGradientState
    iter: Int[Array, ""]
    status: Int[Array, ""]
    history: History | None


class _Problem(NamedTuple):
    data: Observed
    blocks: tuple[Block, ...]
    first: Array
    final: Array
    decay: Array
    tol: Array
    restart: str

    def gamma(self, k):
        return jnp.minimum(self.first * k.astype(self.first.dtype) ** self.decay, self.final)


class _Envelope(NamedTuple):
    duals: tuple[Array, ...]
    gradient: Array
    lipschitz: Array
    objective: Array
    primal: Array
    dual: Array


class _Known(eqx.Module):
    """Value and gradient at the one point where the next step needs them."""

    value: Array
    gradient: Array

    def __call__(self, x):
        return self.value, self.gradient


class _KeepObserved(eqx.Module):
    target: Array
    mask: Array

    def __call__(self, x, step):
        return jnp.where(self.mask, self.target, x)


def _envelope(data, blocks, gamma, x) -> _Envelope:
    ax, y, values, gradient, lipschitz = [], [], [], jnp.zeros_like(x), jnp.zeros((), x.dtype)
    for block, penalty in zip(blocks, gamma, strict=True):
        ax.append(block.gather(block.data, x))
        near, value = block.prox(block.data, ordered(ax[-1], y[-1] if y else None), 1 / penalty)
        gradient = gradient + block.scatter(block.data, penalty * (ax[-1] - near))
        lipschitz = lipschitz + penalty * block.count.astype(x.dtype)
        y.append(near)
        values.append(value)
    duals = tuple(g * (a - b) for g, a, b in zip(gamma, ax, y, strict=True))
    norm = lambda parts: jnp.linalg.norm(block_norms(tuple(parts)))  # noqa: E731
    off = jnp.sqrt(sum_of_squares(jnp.where(data.mask, 0, gradient)))
    return _Envelope(
        duals,
        gradient,
        lipschitz,
        sum(values[1:], values[0]),
        safe_ratio(jnp.linalg.norm(block_norms(tuple(ax), tuple(y))), jnp.maximum(norm(ax), norm(y))),
        safe_ratio(off, norm(duals)),
    )


@eqx.filter_jit
def _solve(tensor, mask, init, truth, blocks, smoothing, tol, static):
    check_loop_arguments(static.max_iter, 1, "while")
    data = observed(tensor, mask, init, truth)
    final, first = static.penalties(smoothing, data, blocks)
    problem = _Problem(data, blocks, first, final, smoothing.decay, tol, static.restart)
    zero, nan, inf = (
        jnp.zeros((), jnp.int32),
        jnp.asarray(jnp.nan, data.target.dtype),
        jnp.asarray(jnp.inf, data.target.dtype),
    )
    descent = ProximalGradientState(data.start, data.start, jnp.ones_like(nan), zero, inf, inf, nan, zero, None)
    blank = data.blank_history(static.max_iter, len(blocks)) if static.history else None
    state = iterate(
        lambda state: _step(problem, state),
        lambda state: _test(problem, state),
        _State(descent, zero, data.status, blank),
        max_iter=static.max_iter,
    )
    gamma = problem.gamma(state.iter)
    at = _envelope(data, blocks, gamma, state.descent.x)
    info = ADMMInfo(state.iter, state.status == CONVERGED, state.status, at.primal, at.dual, gamma, at.objective, nan)
    return completion(
        data, state.descent.x, info, state.history, units=(1 / data.scale, data.scale), duals=at.duals, blocks=blocks
    )


def _step(problem, state):
    k = state.iter + 1
    gamma = problem.gamma(k)
    at = _envelope(problem.data, problem.blocks, gamma, state.descent.z)
    descent = accelerated_proximal_gradient(
        _Known(at.objective, at.gradient),
        _KeepObserved(problem.data.target, problem.data.mask),
        state.descent._replace(measure=jnp.full_like(state.descent.measure, jnp.inf)),
        step=1 / at.lipschitz,
        restart=problem.restart,
        tol=0.0,
        max_iter=1,
    ).state
    state = state._replace(descent=descent, iter=k)
    if state.history is None:
        return state
    record = {"primal": at.primal, "dual": at.dual, "rho": gamma, "objective": at.objective} | problem.data.metrics(
        descent.x
    )
    return state._replace(history=state.history.record(state.iter - 1, record))


def _test(problem, state):
    arrived = jnp.all(problem.gamma(state.iter) == problem.final)
    done = arrived & (state.descent.change <= problem.tol)
    status = jnp.where(state.descent.status == DIVERGED, DIVERGED, jnp.where(done, CONVERGED, RUNNING))
    return state._replace(status=status.astype(jnp.int32))

"""SiLRTC and FaLRTC: the sum of nuclear norms, smoothed, minimised by (accelerated) proximal gradient steps.

Each ``alpha_i ||A_i X||_*`` is replaced by its Moreau envelope
``min_M alpha_i ||M||_* + gamma_i / 2 ||A_i X - M||_F^2``, whose gradient ``gamma_i A_i^T (A_i X - M_i)`` with
``M_i = SVT(A_i X, alpha_i / gamma_i)`` is gamma_i-Lipschitz. SiLRTC is the plain method with fixed gamma; FaLRTC the
accelerated one with ``mu = 1 / gamma`` falling to a final value. Both end at the optimum of the smoothed problem; its
distance from that of the sum of nuclear norms vanishes only with mu.

Reference: Liu, Musialski, Wonka, Ye, "Tensor completion for estimating missing values in visual data", PAMI 2013.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxspec.checks import check_numbers
from jaxspec.completion import validation
from jaxspec.completion.baselines.observed import Number, Observed, broadcast, completion, observed
from jaxspec.completion.result import TensorCompletion
from jaxspec.completion.tensor import build_blocks
from jaxspec.linalg import ordered
from jaxspec.linalg.scaling import safe_divide
from jaxspec.solvers import ADMMInfo, Block, accelerated_proximal_gradient
from jaxspec.solvers.loop import CONVERGED, DIVERGED, RUNNING, History, check_loop_arguments, iterate
from jaxspec.solvers.penalties import block_norms, sum_of_squares
from jaxspec.solvers.proximal_gradient import ProximalGradientState
from jaxspec.solvers.stopping import safe_ratio

Blocks = tuple[Block, ...]


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
    r"""``min sum_i alpha_i ||M_i||_* + gamma_i / 2 ||A_i X - M_i||^2 s.t. X = T where observed``, alternating (SiLRTC).

    ``M_i = SVT(A_i X, alpha_i / gamma_i)``; ``X = sum_i gamma_i A_i^T M_i / sum_i gamma_i`` where not observed.
    Subtract the mean of the data first; ``info.converged`` means a small step and no more.

    Args:
        tensor: N >= 2 modes; as in `complete_tensor`.
        mask: True (or 1) where observed; None: where ``tensor`` is finite.
        weights: alpha_i >= 0, one per mode, normalised to sum 1; None: equal.
        gamma: > 0, scalar or one per block of ``blocks.unfoldings``, in the inverse units of the data; None: 0.1
            divided by the root mean square of the observed entries (the authors' code has 0.1 for any data).
        init: initial tensor, broadcastable; None: 0 where not observed.
        svt: engine of the thresholding, see `jaxspec.prox.svt`.
        tol: ``||X - X_old|| <= tol ||X||`` at which to stop.
        max_iter: iterations at most (static).
        truth: true tensor; its NMSE is then recorded per iteration.
        history: whether to record residuals, penalties and the objective per iteration.
        validate: whether to look at the values of the input (skipped under a trace).

    Returns:
        The completion with the duals ``W_i = gamma_i (A_i X - M_i)``, exact subgradients of ``alpha_i ||.||_*`` at M_i,
        in the layout of ``blocks.unfoldings``. ``info.primal_residual`` is ``||A X - M|| / max(||A X||, ||M||)`` over
        all blocks: it does not vanish for any finite gamma. ``info.dual_residual`` is ``||sum_i A_i^T W_i|| / ||W||``
        where not observed: 0 at the optimum. ``info.objective`` is ``sum_i alpha_i ||M_i||_*``, ``info.rho`` is gamma,
        ``info.gap`` is NaN (see `tensor.duality_gap`). The history has the same at the point where each step starts. No
        state to resume: pass the tensor as ``init``.

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
    check_numbers(0, ends="()", gamma=gamma)
    check_numbers(0, tol=tol)
    blocks = build_blocks(tensor.shape, "snn", weights, svt)
    given = _Given(broadcast("gamma", gamma, (len(blocks),), tensor.dtype), None)
    static = _Static(_fixed, "always", max_iter, history, dtype)
    return _solve(_inputs(tensor, mask, init, truth), blocks, given, _as(tensor, 0), _as(tensor, tol), static)


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
    r"""``min sum_i f_i(A_i X) s.t. X = T where observed`` with smoothed nuclear norms, accelerated (FaLRTC).

    ``f_i(A) = max_{||W||_2 <= alpha_i} <A, W> - mu_i / 2 ||W||_F^2``, the Moreau envelope of ``alpha_i ||.||_*``;
    iteration k uses ``max(mu_i, mu_start_i / k^decay)``. The steps are those of the accelerated proximal gradient
    method with the known Lipschitz constant ``sum_i 1 / mu_i``, for which the authors search, and a gradient restart.
    Subtract the mean of the data first; ``info.converged`` means a small step and no more.

    Args:
        tensor: N >= 2 modes; as in `complete_tensor`.
        mask: True (or 1) where observed; None: where ``tensor`` is finite.
        weights: alpha_i >= 0, one per mode, normalised to sum 1; None: equal.
        mu: final smoothing, > 0, scalar or one per block of ``blocks.unfoldings``, in the units of the data (the
            authors' mu_i is alpha_i^2 times ours); None: ``5 N / sqrt(n_i)`` times the root mean square of the observed
            entries, with n_i the short side of A_i X (the authors' code has this for alpha_i = 1/N and data of size 1).
        mu_start: first smoothing, likewise; None: its threshold is 0.3 times the largest singular value, as in the
            authors' code.
        decay: > 0, exponent of the smoothing.
        init: initial tensor, broadcastable; None: 0 where not observed.
        svt: engine of the thresholding, see `jaxspec.prox.svt`.
        tol: prox-gradient step ``||X - Z|| <= tol ||X||`` at which to stop, once mu is final (the authors stop before,
            too).
        max_iter: iterations at most (static).
        truth: true tensor; its NMSE is then recorded per iteration.
        history: whether to record residuals, penalties and the objective per iteration.
        validate: whether to look at the values of the input (skipped under a trace).

    Returns:
        As of `silrtc`, with ``gamma_i = 1 / mu_i`` of the last iteration.

    Raises:
        ValueError: for bad input, naming the argument, the value and what was expected.
        TypeError: for complex input.

    Reference:
        Liu, Musialski, Wonka, Ye, PAMI 2013, algorithm 3; Nesterov, "Smooth minimization of non-smooth functions",
        2005.

    Example:
        >>> import jax.numpy as jnp
        >>> truth = jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(1.0, 4.0))
        >>> result = falrtc(truth, jnp.ones((4, 3), bool).at[2, 1].set(False), mu=0.01)
        >>> bool(jnp.abs(result.tensor - truth).max() < 1e-2)
        True
    """
    tensor, mask, dtype = validation.observations(tensor, mask, validate)
    check_numbers(0, ends="()", mu=mu, mu_start=mu_start, decay=decay)
    check_numbers(0, tol=tol)
    blocks = build_blocks(tensor.shape, "snn", weights, svt)
    final, first = (
        broadcast(name, value, (len(blocks),), tensor.dtype) for name, value in (("mu", mu), ("mu_start", mu_start))
    )
    given = _Given(None if final is None else 1 / final, None if first is None else 1 / first)
    static = _Static(_growing, "gradient", max_iter, history, dtype)
    return _solve(_inputs(tensor, mask, init, truth), blocks, given, _as(tensor, decay), _as(tensor, tol), static)


class _Inputs(NamedTuple):
    tensor: Array
    mask: Array
    init: Array | None
    truth: Array | None


class _Given(NamedTuple):
    """gamma of every block at the end and at the beginning, in the units of the data; None: to be chosen."""

    last: Array | None
    first: Array | None


class _Static(NamedTuple):
    schedule: Callable
    restart: str
    max_iter: int
    history: bool
    dtype: Any


class _Problem(NamedTuple):
    data: Observed
    blocks: Blocks
    first: Array
    last: Array
    decay: Array
    tol: Array
    restart: str

    def gamma(self, k: Int[Array, ""]) -> Float[Array, " m"]:
        """Penalties of iteration k >= 1."""
        return jnp.minimum(self.first * jnp.maximum(k, 1).astype(self.first.dtype) ** self.decay, self.last)


class _State(NamedTuple):
    descent: ProximalGradientState
    iter: Int[Array, ""]
    status: Int[Array, ""]
    history: History | None


class _Envelope(NamedTuple):
    """The smoothed objective at a point: gradient, its Lipschitz constant, and what the history records."""

    gradient: Array
    lipschitz: Array
    duals: tuple[Array, ...]
    objective: Array
    primal: Array
    dual: Array


class _Known(eqx.Module):
    """The value and gradient at the one point where the next step asks for them."""

    value: Array
    gradient: Array

    def __call__(self, x: Array) -> tuple[Array, Array]:
        return self.value, self.gradient


class _KeepObserved(eqx.Module):
    target: Array
    mask: Array

    def __call__(self, x: Array, step: Array) -> Array:
        return jnp.where(self.mask, self.target, x)


def _inputs(tensor: Array, mask: Array, init: Any, truth: Any) -> _Inputs:
    start = broadcast("init", init, tensor.shape, tensor.dtype)
    return _Inputs(tensor, mask, start, broadcast("truth", truth, tensor.shape, tensor.dtype))


def _as(tensor: Array, value: Number) -> Array:
    return jnp.asarray(value, tensor.dtype)


def _fixed(given: _Given, data: Observed, blocks: Blocks) -> tuple[Array, Array]:
    gamma = jnp.full(len(blocks), 0.1 / data.rms) if given.last is None else given.last * data.scale
    return gamma, gamma


def _growing(given: _Given, data: Observed, blocks: Blocks) -> tuple[Array, Array]:
    if given.last is None:
        terms = sum(len(block.gather.modes) for block in blocks)
        sides = [block.gather(block.data, data.target).shape[-2] for block in blocks]
        last = jnp.stack([math.sqrt(side) / (5 * terms * data.rms) for side in sides])
    else:
        last = given.last * data.scale
    if given.first is not None:
        return given.first * data.scale, last
    gauges = []
    for block in blocks:
        matrices = ordered(block.gather(block.data, data.start), gauges[-1] if gauges else None)
        gauges.append(block.gauge(block.data, matrices))
    mu = 0.3 * jnp.stack(gauges)
    return safe_divide(1, mu, last), last


def _envelope(data: Observed, blocks: Blocks, gamma: Array, x: Array) -> _Envelope:
    ax, y, duals, values = [], [], [], []
    gradient, lipschitz = jnp.zeros_like(x), jnp.zeros((), x.dtype)
    for block, penalty in zip(blocks, gamma, strict=True):
        ax.append(block.gather(block.data, x))
        # One LAPACK-backed factorisation at a time: two independent ones in a loop can stall the CPU backend.
        nearest, value = block.prox(block.data, ordered(ax[-1], y[-1] if y else None), 1 / penalty)
        duals.append(penalty * (ax[-1] - nearest))
        gradient = gradient + block.scatter(block.data, duals[-1])
        lipschitz = lipschitz + penalty * block.count.astype(x.dtype)
        y.append(nearest)
        values.append(value)
    norms = [jnp.linalg.norm(block_norms(tuple(parts))) for parts in (ax, y, duals)]
    apart = jnp.linalg.norm(block_norms(tuple(ax), tuple(y)))
    primal = safe_ratio(apart, jnp.maximum(norms[0], norms[1]))
    dual = safe_ratio(jnp.sqrt(sum_of_squares(jnp.where(data.mask, 0, gradient))), norms[2])
    return _Envelope(gradient, lipschitz, tuple(duals), sum(values[1:], values[0]), primal, dual)


@eqx.filter_jit
def _solve(
    inputs: _Inputs, blocks: Blocks, given: _Given, decay: Array, tol: Array, static: _Static
) -> TensorCompletion:
    check_loop_arguments(static.max_iter, 1, "while")
    data = observed(*inputs)
    first, last = static.schedule(given, data, blocks)
    problem = _Problem(data, blocks, first, last, decay, tol, static.restart)
    zero = jnp.zeros((), jnp.int32)
    one, infinity, nan = (jnp.asarray(value, data.target.dtype) for value in (1, jnp.inf, jnp.nan))
    descent = ProximalGradientState(data.start, data.start, one, zero, infinity, infinity, nan, zero, None)
    blank = data.blank_history(static.max_iter, len(blocks)) if static.history else None
    state = iterate(
        lambda state: _step(problem, state),
        lambda state: _test(problem, state),
        _State(descent, zero, data.status, blank),
        max_iter=static.max_iter,
    )
    x, gamma = state.descent.x, problem.gamma(state.iter)
    at = _envelope(data, blocks, gamma, x)
    info = ADMMInfo(state.iter, state.status == CONVERGED, state.status, at.primal, at.dual, gamma, at.objective, nan)
    units = (1 / data.scale, data.scale)
    return completion(data, x, info, state.history, dtype=static.dtype, units=units, duals=at.duals, blocks=blocks)


def _step(problem: _Problem, state: _State) -> _State:
    data, k = problem.data, state.iter + 1
    gamma = problem.gamma(k)
    at = _envelope(data, problem.blocks, gamma, state.descent.z)
    # The driver runs one step per call: the smoothing changes between steps, and the driver records neither an error to
    # a known truth nor the residuals, which share the thresholding with the gradient.
    descent = accelerated_proximal_gradient(
        _Known(at.objective, at.gradient),
        _KeepObserved(data.target, data.mask),
        state.descent._replace(change=jnp.full_like(state.descent.change, jnp.inf)),
        step=1 / at.lipschitz,
        restart=problem.restart,
        tol=0.0,
        max_iter=1,
    ).state
    state = state._replace(descent=descent, iter=k)
    if state.history is None:
        return state
    values = {"primal": at.primal, "dual": at.dual, "rho": gamma, "objective": at.objective}
    return state._replace(history=state.history.record(state.iter - 1, data.record(descent.x, values)))


def _test(problem: _Problem, state: _State) -> _State:
    final = jnp.all(problem.gamma(state.iter) == problem.last)
    status = jnp.where(final & (state.descent.change <= problem.tol), CONVERGED, RUNNING)
    status = jnp.where(state.descent.status == DIVERGED, DIVERGED, status)
    return state._replace(status=status.astype(jnp.int32))

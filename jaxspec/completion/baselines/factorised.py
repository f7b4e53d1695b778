"""TMac and its mixture with nuclear norms: alternating minimisation over low-rank factors of the unfoldings.

    min sum_{i in F} w_i / 2 ||X_i Y_i - A_i Z||^2 + sum_{i not in F} (alpha_i ||M_i||_* + gamma / 2 ||M_i - A_i Z||^2)

subject to Z = T where observed, over Z, factors X_i Y_i of given ranks and matrices M_i. One iteration updates every
factor pair by ``X_i = orth(A_i Z Y_i^T)``, ``Y_i = X_i^T A_i Z``, every ``M_i = SVT(A_i Z, alpha_i / gamma)``, then Z
as the weighted mean of the terms where nothing is observed. F is every mode in TMac, a part of them in the mixture. The
program is not convex: a rank that is wrong shows in the result, whatever the tolerance.

Reference: Xu, Hao, Yin, Su, "Parallel matrix factorization for low-rank tensor completion", Inverse Problems and
Imaging 2015; Gao, Fan, "A mixture of nuclear norm and matrix factorization for tensor completion", J. Sci. Comput.
2018.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxspec.checks import check_given, check_key, check_numbers
from jaxspec.completion import blocks as regularisers
from jaxspec.completion import validation
from jaxspec.completion.baselines.alternating import Data, Numbers, Static, alternate
from jaxspec.completion.baselines.observed import Number, broadcast
from jaxspec.completion.result import TensorCompletion
from jaxspec.solvers.stopping import default_tol


def tmac(
    tensor: Any,
    mask: Any = None,
    ranks: Sequence[int] | None = None,
    *,
    weights: Any = None,
    init: Any = None,
    key: Key[Array, ""] | None = None,
    tol: Number | None = None,
    max_iter: int = 500,
    truth: Any = None,
    history: bool = True,
    validate: bool = True,
) -> TensorCompletion:
    r"""``min sum_n beta_n / 2 ||X_n Y_n - A_n Z||_F^2 s.t. Z = T where observed`` over factors of given ranks (TMac).

    ``X_n = orth(A_n Z Y_n^T)``; ``Y_n = X_n^T A_n Z``; ``Z = sum_n beta_n A_n^T (X_n Y_n)`` where not observed; then
    ``beta_n ~ 1 / ||X_n Y_n - A_n T||^2`` over the observed entries, with sum 1.

    Subtract the mean of the data first: beside a large level the alternation creeps far from any optimum and ends there
    as converged, for it stops on a small step. Entries held out and a second ``key`` show it.

    Args:
        tensor: N >= 2 modes; as in `complete_tensor`.
        mask: True (or 1) where observed; None: where ``tensor`` is finite.
        ranks: one per mode, each from 1 to the short side of its unfolding; required (static).
        weights: beta_n >= 0, one per mode, normalised to sum 1 and then kept; None: equal at first, then by the misfit.
        init: initial tensor, broadcastable, whose leading singular vectors start the Y_n; None: 0 where not observed,
            and Gaussian Y_n as in the authors' code.
        key: of the Gaussian start; None: ``jax.random.key(0)``.
        tol: ``||Z - Z_old|| <= tol ||Z||`` at which to stop; None: 1e-5 in float32, 1e-6 in float64. (The authors watch
            the misfit.)
        max_iter: iterations at most (static).
        truth: true tensor; its NMSE is then recorded per iteration.
        history: whether to record residuals, weights and the objective per iteration.
        validate: whether to look at the values of the input (skipped under a trace).

    Returns:
        The completion, without duals. ``info.converged`` says that Z moved by at most ``tol``, not that it is near an
        optimum. ``info.primal_residual`` is ``||X Y - A Z|| / max(||X Y||, ||A Z||)`` over all modes: 0 for data that
        have these ranks. ``info.dual_residual`` is ``||Z - Z_old|| / ||Z||``, ``info.objective`` the sum above,
        ``info.rho`` the weights beta_n by mode, ``info.gap`` NaN: nothing bounds the distance from a global optimum.
        All are of the last iteration, before Z was updated. No state to resume: pass the tensor as ``init``.

    Raises:
        ValueError: for bad input, naming the argument, the value and what was expected.
        TypeError: for complex input.

    Reference:
        Xu, Hao, Yin, Su, Inverse Problems and Imaging 2015, algorithm 1, ranks fixed.

    Example:
        >>> import jax.numpy as jnp
        >>> truth = jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(1.0, 4.0))
        >>> result = tmac(truth, jnp.ones((4, 3), bool).at[2, 1].set(False), (1, 1))
        >>> bool(jnp.abs(result.tensor - truth).max() < 1e-2)
        True
    """
    check_given(ranks=ranks)
    tensor, mask, dtype = validation.observations(tensor, mask, validate)
    check_numbers(0, tol=tol)
    modes = tuple(range(tensor.ndim))
    ranks = _checked_ranks(ranks, modes, tensor.shape)
    adaptive = weights is None
    weights = validation.normalised_weights([1.0] * tensor.ndim if adaptive else weights, tensor.ndim)
    static = Static(ranks, modes, adaptive, max_iter, history, dtype)
    numbers = Numbers(None, None, jnp.asarray(weights, tensor.dtype), default_tol(tol, tensor.dtype))
    return alternate(_data(tensor, mask, init, truth, key), (), numbers, static)


def mixture_nn_mf(
    tensor: Any,
    mask: Any = None,
    ranks: Sequence[int] | None = None,
    factor_modes: Sequence[int] | None = None,
    *,
    weights: Any = None,
    gamma: Number | None = None,
    theta: Number | None = None,
    init: Any = None,
    key: Key[Array, ""] | None = None,
    svt: str = "auto",
    tol: Number | None = None,
    max_iter: int = 500,
    truth: Any = None,
    history: bool = True,
    validate: bool = True,
) -> TensorCompletion:
    r"""Nuclear norms on some modes, low-rank factors of given ranks on the others (NS-LRTC).

    ``min sum_{i in F} theta alpha_i / 2 ||X_i Y_i - A_i Z||^2 + sum_{i not in F} (alpha_i ||M_i||_* + gamma / 2
    ||M_i - A_i Z||^2)`` with Z = T where observed: the factors as in `tmac` with fixed weights, the nuclear norms as in
    `silrtc`.

    Args:
        tensor: N >= 2 modes; as in `complete_tensor`.
        mask: True (or 1) where observed; None: where ``tensor`` is finite.
        ranks: one per mode, from 1 to the short side of the unfolding where the mode is factored, unused elsewhere;
            required (static).
        factor_modes: F, distinct modes, not all of them; required (static). The authors take modes 0 and 2 of three.
        weights: alpha_i >= 0, one per mode, normalised to sum 1; None: equal.
        gamma: penalty of ``A_i Z = M_i``, > 0, in the inverse units of the data; None: 0.1 divided by the root mean
            square of the observed entries, as in `silrtc`.
        theta: penalty of the factors, > 0, likewise; None: 30 times gamma, the ratio in the authors' code.
        init: as in `tmac`.
        key: as in `tmac`.
        svt: engine of the thresholding, see `jaxspec.prox.svt`.
        tol: as in `tmac`.
        max_iter: iterations at most (static).
        truth: true tensor; its NMSE is then recorded per iteration.
        history: whether to record residuals, penalties and the objective per iteration.
        validate: whether to look at the values of the input (skipped under a trace).

    Returns:
        As of `tmac`, with M_i among the X_i Y_i in the residual, and as ``info.rho``, by mode, the weight of every term
        in Z: ``theta alpha_i`` or gamma; a nuclear norm whose weight is a known 0 is left out.

    Raises:
        ValueError: for bad input, naming the argument, the value and what was expected.
        TypeError: for complex input.

    Reference:
        Gao, Fan, "A mixture of nuclear norm and matrix factorization for tensor completion", J. Sci. Comput. 2018.

    Example:
        >>> import jax.numpy as jnp
        >>> truth = jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(1.0, 4.0))
        >>> result = mixture_nn_mf(truth, jnp.ones((4, 3), bool).at[2, 1].set(False), (1, 1), (0,), gamma=10.0)
        >>> bool(jnp.abs(result.tensor - truth).max() < 0.1)
        True
    """
    check_given(ranks=ranks, factor_modes=factor_modes)
    tensor, mask, dtype = validation.observations(tensor, mask, validate)
    check_numbers(0, ends="()", gamma=gamma, theta=theta)
    check_numbers(0, tol=tol)
    modes = _checked_modes(factor_modes, tensor.ndim)
    ranks = _checked_ranks(ranks, modes, tensor.shape)
    weights = validation.normalised_weights([1.0] * tensor.ndim if weights is None else weights, tensor.ndim)
    others = [mode for mode in range(tensor.ndim) if mode not in modes]
    nuclear = regularisers.unfoldings(tensor.shape, _part(weights, others), others, method=svt)
    gamma, theta = (broadcast(name, value, (), tensor.dtype) for name, value in (("gamma", gamma), ("theta", theta)))
    numbers = Numbers(gamma, theta, jnp.asarray(_part(weights, modes), tensor.dtype), default_tol(tol, tensor.dtype))
    static = Static(ranks, modes, False, max_iter, history, dtype)
    return alternate(_data(tensor, mask, init, truth, key), nuclear, numbers, static)


def _checked_modes(factor_modes: Sequence[int], ndim: int) -> tuple[int, ...]:
    modes = tuple(factor_modes)
    if not 0 < len(modes) < ndim or len(set(modes)) < len(modes) or any(mode not in range(ndim) for mode in modes):
        raise ValueError(f"factor_modes is {modes}; expected distinct modes of 0..{ndim - 1}, at least one and not all")
    return tuple(int(mode) for mode in modes)


def _checked_ranks(ranks: Sequence[int], modes: Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Ranks of the factored modes."""
    ranks = tuple(ranks)
    if len(ranks) != len(shape):
        raise ValueError(f"ranks is {ranks}; expected {len(shape)} integers, one per mode")
    for mode in modes:
        side = min(shape[mode], math.prod(shape) // shape[mode])
        if ranks[mode] not in range(1, side + 1):
            raise ValueError(f"ranks[{mode}] is {ranks[mode]}; expected an integer in [1, {side}]")
    return tuple(int(ranks[mode]) for mode in modes)


def _part(weights: Any, modes: Sequence[int]) -> Any:
    return [weights[mode] for mode in modes] if isinstance(weights, list) else weights[np.asarray(modes)]


def _data(tensor: Array, mask: Array, init: Any, truth: Any, key: Array | None) -> Data:
    start = broadcast("init", init, tensor.shape, tensor.dtype)
    truth = broadcast("truth", truth, tensor.shape, tensor.dtype)
    key = jax.random.key(0) if key is None else key
    check_key(key)
    return Data(tensor, mask, start, truth, key)

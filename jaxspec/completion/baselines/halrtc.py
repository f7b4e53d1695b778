"""HaLRTC: the alternating direction method with a growing penalty for the sum of nuclear norms."""

from typing import Any

import jax.numpy as jnp

from jaxspec.checks import check_numbers, is_concrete
from jaxspec.completion.baselines.observed import Number
from jaxspec.completion.result import TensorCompletion
from jaxspec.completion.tensor import complete_tensor
from jaxspec.solvers import Geometric, RelativeChange


def halrtc(
    tensor: Any,
    mask: Any = None,
    *,
    weights: Any = None,
    rho: Any = 1e-6,
    growth: Number = 1.05,
    max_rho: Number = float("inf"),
    init: Any = None,
    svt: str = "auto",
    tol: Number = 1e-5,
    max_iter: int = 500,
    truth: Any = None,
    certificate: bool = False,
    history: bool = True,
    validate: bool = True,
) -> TensorCompletion:
    r"""``min sum_i alpha_i ||A_i X||_* s.t. X = T where observed`` by ADMM with a growing penalty (HaLRTC).

    ``M_i = SVT(A_i X + Y_i / rho, alpha_i / rho)``; ``X = mean_i A_i^T (M_i - Y_i / rho)`` where not observed;
    ``Y_i <- Y_i + rho (A_i X - M_i)``; ``rho <- min(growth rho, max_rho)``. This is `complete_tensor` without
    over-relaxation and with a penalty that only grows: once rho is large the duals stand still, and on data that are
    not exactly recoverable the run ends before the optimum. It stops on a small step, and ``info.converged`` means no
    more than that; ``certificate=True`` says how far the optimum is. Subtract the mean of the data first: beside a
    large level the run ends much too early.

    The defaults are those of the authors' code, whose penalties are absolute numbers (made for pixels from 0 to 255);
    transdim starts at ``rho=1e-5``, stops at ``tol=1e-4`` and has ``max_rho=1e5``.

    Args:
        tensor: N >= 2 modes; as in `complete_tensor`.
        mask: True (or 1) where observed; None: where ``tensor`` is finite.
        weights: alpha_i >= 0, one per mode, normalised to sum 1; None: equal.
        rho: penalty of the first iteration, > 0, scalar or one per block, in the inverse units of the data.
        growth: factor of the penalty per iteration, >= 1; 1 keeps it.
        max_rho: largest penalty, > 0, in the same units.
        init: as in `complete_tensor`: None (0 where not observed), an array, a `WarmStart`, or a result to resume.
        svt: engine of the thresholding, see `jaxspec.prox.svt`.
        tol: relative change of X at which to stop; a standstill before the first threshold bites does not count.
        max_iter: iterations at most (static).
        truth: true tensor; its NMSE is then recorded per iteration.
        certificate: whether to compute the duality gap of the result (``info.gap``).
        history: whether to record residuals, penalties and the objective per iteration.
        validate: whether to look at the values of the input (skipped under a trace).

    Returns:
        As of `complete_tensor`; the duals are W_i = Y_i.

    Raises:
        ValueError: for bad input, naming the argument, the value and what was expected.
        TypeError: for complex input.

    Reference:
        Liu, Musialski, Wonka, Ye, "Tensor completion for estimating missing values in visual data", PAMI 2013,
        algorithm 4.

    Example:
        >>> import jax.numpy as jnp
        >>> truth = jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(1.0, 4.0))
        >>> result = halrtc(truth, jnp.ones((4, 3), bool).at[2, 1].set(False), rho=0.1)
        >>> bool(jnp.abs(result.tensor - truth).max() < 1e-2)
        True
    """
    check_numbers(0, ends="()", rho=rho)
    if is_concrete(max_rho) and not float(max_rho) > 0:
        raise ValueError(f"max_rho is {max_rho}; expected a number > 0")
    check_numbers(1, growth=growth)
    check_numbers(0, tol=tol)
    return complete_tensor(
        tensor,
        mask,
        weights=weights,
        over_relaxation=1.0,
        # Floats are traced in the dtype of the data, integers would be compiled in.
        penalty=Geometric(1.0 * growth, max_rho / jnp.asarray(rho, float)),
        rho=rho,
        init=init,
        svt=svt,
        stop=RelativeChange(1.0 * tol),
        max_iter=max_iter,
        truth=truth,
        certificate=certificate,
        history=history,
        validate=validate,
    )

r"""Between the coordinates of the flow, ``(h, gamma, eps)``, and those in which Muon is coded, ``(lr, beta, eps)``.

EMA form: ``M <- beta M + (1 - beta) G``, ``X <- X - lr Orth_eps(M)``, with ``M = -gamma P`` and ``eps_M = gamma eps``.
Heavy-ball form: ``M <- beta M + lr G`` with ``M = -P`` and ``eps_M = eps``. In both ``beta = e^(-gamma h)``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxspec.checks import check_choice, check_numbers, is_concrete
from jaxspec.flow.kinetic import kinetic

_FORMS = ("ema", "heavy_ball")


class MuonParams(NamedTuple):
    """Parameters as an optimiser has them.

    Attributes:
        lr: learning rate.
        beta: decay of the momentum.
        eps: floor of the momentum's singular values.
    """

    lr: Float[Array, ""]
    beta: Float[Array, ""]
    eps: Float[Array, ""]


class FlowParams(NamedTuple):
    """Parameters as a flow has them.

    Attributes:
        h: step in time.
        gamma: friction.
        eps: floor of the momentum's singular values.
    """

    h: Float[Array, ""]
    gamma: Float[Array, ""]
    eps: Float[Array, ""]


def flow_to_muon(h: ArrayLike, gamma: ArrayLike, eps: ArrayLike, form: str = "ema") -> MuonParams:
    """Parameters of the Muon iteration that one ``muon`` step of the flow is.

    Args:
        h: step, > 0.
        gamma: friction, > 0 (EMA) or >= 0.
        eps: floor, > 0.
        form: "ema" or "heavy_ball"; the latter's gain ``h`` stands for ``(1 - e^(-gamma h)) / gamma``.

    Returns:
        ``(lr, beta, eps)``.

    Raises:
        ValueError: a number out of range, or an unknown form.

    Example:
        >>> [round(float(p), 4) for p in flow_to_muon(0.1, 2.0, 0.5)]
        [0.1, 0.8187, 1.0]
    """
    check_choice("form", form, _FORMS)
    check_numbers(0, ends="()", h=h)
    check_numbers(0, ends="()" if form == "ema" else "[)", gamma=gamma)
    check_numbers(0, ends="()", eps=eps)
    h, gamma, eps = (jnp.asarray(a, float) for a in (h, gamma, eps))
    return MuonParams(h, jnp.exp(-gamma * h), gamma * eps if form == "ema" else eps)


def muon_to_flow(lr: ArrayLike, beta: ArrayLike, eps: ArrayLike, form: str = "ema") -> FlowParams:
    """The flow whose ``muon`` step is the given Muon iteration: the inverse of `flow_to_muon`.

    Args:
        lr: learning rate, > 0.
        beta: decay, in (0, 1).
        eps: floor of the momentum as coded, > 0.
        form: "ema" or "heavy_ball".

    Returns:
        ``(h, gamma, eps)``.

    Raises:
        ValueError: a number out of range, or an unknown form.

    Example:
        >>> [round(float(p), 4) for p in muon_to_flow(0.1, 0.8187308, 1.0)]
        [0.1, 2.0, 0.5]
    """
    check_choice("form", form, _FORMS)
    check_numbers(0, ends="()", lr=lr)
    check_numbers(0, ends="()", eps=eps)
    if is_concrete(beta) and not 0 < float(beta) < 1:
        raise ValueError(f"beta is {beta}; expected 0 < beta < 1")
    lr, beta, eps = (jnp.asarray(a, float) for a in (lr, beta, eps))
    gamma = -jnp.log(beta) / lr
    return FlowParams(lr, gamma, eps / gamma if form == "ema" else eps)


def half_step_readout(x: PyTree, ema_momentum: PyTree, h: ArrayLike, eps_ema: ArrayLike) -> PyTree:
    """``x + (h/2) Orth(M)``: the second-order position that first-order EMA-Muon hides.

    Muon with ``beta = e^(-gamma h)`` is conjugate to the symmetric drift-kick-drift scheme; half a drift back leads to
    its position at the same time.

    Args:
        x: parameters after a step, a pytree of (..., m, n).
        ema_momentum: momentum after the same step, like ``x``.
        h: learning rate.
        eps_ema: floor of the momentum.

    Returns:
        Like ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> half_step_readout(jnp.zeros((1, 1)), jnp.array([[3.0]]), 0.2, 4.0).round(3)
        Array([[0.06]], dtype=float32)
    """
    stacked = jax.tree.map(lambda m: m[None], ema_momentum)
    velocity = kinetic(stacked, eps_ema, 1.0, "auto").velocity
    return jax.tree.map(lambda x, v: x + h / 2 * v[0], x, velocity)

r"""Muon with a fixed floor, ``F(M) = U S (S^2 + eps^2)^(-1/2) V^T``: the first-order step of a damped Hamiltonian flow.

With the friction ``gamma`` of the flow instead of a decay, the decay follows the learning rate, ``beta_k = e^(-gamma
lr_k)``: a schedule then changes the speed at which one and the same flow is followed.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PyTree

from jaxspec.checks import check_choice, is_concrete
from jaxspec.linalg import smoothed_polar, spectral_power
from jaxspec.optim.checks import checked_number
from jaxspec.optim.layout import DimsTree, MatrixDims
from jaxspec.optim.partition import ADAM, MATRIX, by_label
from jaxspec.optim.spectral import ShapeScaleName, scale_by_spectral

_FORMS = ("ema", "heavy_ball")
_LAST_TWO = MatrixDims(reduction=(-2,), output=(-1,))


def regularized_muon(
    learning_rate: optax.ScalarOrSchedule,
    eps: ArrayLike,
    *,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    form: Literal["ema", "heavy_ball"] = "ema",
    nesterov: bool = False,
    weight_decay: ArrayLike = 0.0,
    bias_correction: bool = False,
    shape_scale: ShapeScaleName | None = None,
    eps_mode: Literal["absolute", "relative"] = "absolute",
    dimension_numbers: DimsTree = None,
    particle_axis: int | None = None,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    fallback: optax.GradientTransformation | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""``M <- beta M + (1 - beta) G``, ``X <- X - lr (Orth_eps(M) + weight_decay X)`` for every matrix.

    For a loss that is L-smooth, ``lr <= 2 eps / L`` (`jaxspec.flow.max_stable_lr`) never raises ``J + lr beta/(1 -
    beta) Phi_eps(M)``, for any ``beta``, without decay and Nesterov. `jaxspec.flow.flow_to_muon` translates the
    parameters of a flow.

    Args:
        learning_rate: number or schedule.
        eps: floor of the singular values of ``M`` as stored, in its units, > 0; no default: it sets the scale at which
            the optimiser stops being Muon. With ``eps_mode="relative"`` a fraction of their root mean square.
        gamma: friction, >= 0: ``beta_k = exp(-gamma lr_k)``. Exactly one of ``gamma`` and ``beta``.
        beta: constant decay, in [0, 1).
        form: "ema", or "heavy_ball": ``M <- beta M + lr G``, whose ``eps`` is that of the flow.
        nesterov: look one step ahead, ``beta M + (1 - beta) G``; another scheme, by O(lr).
        weight_decay: ``lam``. The fixed points then have ``|X|_op < 1/lam``.
        bias_correction: divide by ``1 - beta^t`` as optax does; with a constant decay and the EMA form only.
        shape_scale: factor of the shape, as in `scale_by_spectral`; None for 1.
        eps_mode: "absolute", or "relative" to ``|M|_F / sqrt(r)``, which is no gradient map.
        dimension_numbers: as in `scale_by_spectral`; default the last two axes, every other one is a batch.
        particle_axis: axis of particles or experts whose number multiplies the gradient, as the force of a mean-field
            objective does; None for an ordinary gradient. It must be a batch axis.
        mask: tree (or function of the parameters) of booleans; False sends a leaf to ``fallback``. Default True.
        fallback: optimiser of masked leaves and of those with fewer than two axes; default `optax.adam` with the same
            learning rate.
        mu_dtype: dtype of the stored momentum.

    Returns:
        The optimiser.

    Raises:
        ValueError: both or neither of gamma and beta, a number out of range, an unknown name.

    Reference:
        Mustafi, Mukherjee & Sriperumbudur, "Move on Muon" (arXiv:2605.23871).

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"experts": jnp.ones((8, 4, 4)), "bias": jnp.ones(4)}
        >>> tx = regularized_muon(0.02, 0.04, gamma=2.0, particle_axis=0)
        >>> updates, state = tx.update(params, tx.init(params), params)
    """
    eps = checked_number("eps", eps, low=0.0, open_low=True)
    check_choice("form", form, _FORMS)
    check_choice("eps_mode", eps_mode, ("absolute", "relative"))
    decay = _decay(learning_rate, gamma, beta)
    if form == "ema" and gamma is not None and is_concrete(gamma) and float(gamma) == 0:
        raise ValueError("gamma is 0.0 and form is 'ema'; without friction only form='heavy_ball' moves")
    mapped = partial(_relative, eps=eps) if eps_mode == "relative" else partial(smoothed_polar, eps=eps)
    matrices = optax.chain(
        optax.identity() if particle_axis is None else _particle_gradients(particle_axis),
        scale_by_spectral(
            mapped,
            beta=decay,
            gain=None if form == "ema" else learning_rate,
            nesterov=nesterov,
            bias_correction=bias_correction,
            normalize="none",
            shape_scale="none" if shape_scale is None else shape_scale,
            dimension_numbers=_LAST_TWO if dimension_numbers is None else dimension_numbers,
            mu_dtype=mu_dtype,
        ),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    rest = optax.adam(learning_rate) if fallback is None else fallback
    return by_label(matrices, rest, partial(_labels, mask=mask), None)


def _decay(learning_rate, gamma, beta):
    """A number, or a function of the count where friction follows a schedule."""
    if (gamma is None) == (beta is None):
        raise ValueError(f"gamma is {gamma} and beta is {beta}; expected exactly one of them")
    if beta is not None:
        return beta
    gamma = checked_number("gamma", gamma, low=0.0)
    if callable(learning_rate):
        return lambda count: jnp.exp(-gamma * learning_rate(count))
    decay = jnp.exp(-gamma * jnp.asarray(learning_rate, float))
    if not is_concrete(decay):
        return decay
    return float(decay) if decay < 1 else lambda count: decay


def _relative(x: Float[Array, "batch m n"], *, eps: ArrayLike) -> Float[Array, "batch m n"]:
    return spectral_power(x, 0.5, eps=eps / min(x.shape[-2:]) ** 0.5, scale="frobenius")


def _particle_gradients(axis):
    return optax.stateless(lambda updates, params: jax.tree.map(lambda g: g * g.shape[axis], updates))


def _labels(params, *, mask):
    mask = mask(params) if callable(mask) else mask
    mask = True if mask is None else mask
    chosen = jax.tree.broadcast(mask, params)
    return jax.tree.map(lambda p, on: MATRIX if on and jnp.ndim(p) >= 2 else ADAM, params, chosen)

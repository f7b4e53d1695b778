"""Kaon: the singular vectors of the momentum with singular values drawn at random, or by a chaotic map."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PyTree

from jaxspec.checks import check_choice
from jaxspec.linalg import chaotic_map, random_spectrum
from jaxspec.linalg.random_spectra import LARGEST_LAM
from jaxspec.optim.checks import checked_number
from jaxspec.optim.layout import DimsTree
from jaxspec.optim.partition import Partition, with_adam
from jaxspec.optim.spectral import Normalize, ShapeScaleName, scale_by_spectral

Method = Literal["chaotic", "iid"]
Sampler = Callable[..., Array]


def scale_by_kaon(  # noqa: D417 - the shared keywords are documented in scale_by_spectral
    key: Array | None = None,
    *,
    method: Method = "chaotic",
    steps: int = 5,
    lam: float = 4.1,
    in_scale: float = 1.25,
    sampler: Sampler = jax.random.uniform,
    beta: ArrayLike = 0.95,
    nesterov: bool = True,
    bias_correction: bool = True,
    normalize: Normalize = "rms",
    shape_scale: ShapeScaleName = "rms",
    dimension_numbers: DimsTree = None,
    mu_dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    axis: str | None = None,
) -> optax.GradientTransformation:
    r"""Momentum, then ``U diag(z) V^T`` with ``z >= 0`` that has nothing to do with the singular values.

    ``chaotic``: ``X <- lam (I - X X^T)^2 X``, ``steps`` times from ``X / (in_scale ||X||_F)``: matrix products only, no
    key. ``iid``: ``z`` drawn afresh for every step and matrix, by an SVD. Both directions descend, as ``z >= 0``, and
    neither is steepest descent in any norm.

    Args:
        key: typed key, required for ``iid`` (no integer seeds). Matrix i of leaf l at count k draws from part i of
            ``fold_in(fold_in(key, k), l)``; a restored state continues the stream.
        method: ``chaotic`` or ``iid``.
        steps: iterations of the chaotic map, >= 1.
        lam: its parameter, in (0, 4.257]; chaotic near 4.1, divergent above.
        in_scale: >= 1. A matrix of rank one divided by its own norm alone has the singular value 1, which the map sends
            to 0 for ever: with the default it starts at 0.8 and stays above 0.06 for 20 steps.
        sampler: ``sampler(key, shape, dtype)`` of ``iid``. A law of mean 0 does not descend.
        beta: as in `scale_by_spectral`, like all that follow, listed or not.
        normalize: ``dual`` has no meaning here.

    Returns:
        The transformation. Chaotic Kaon raises `ValueError` at ``update`` for matrices with one row or column.

    Raises:
        ValueError: ``iid`` without a key, an unknown method, ``steps`` < 1, ``lam`` or ``in_scale`` out of range.
        TypeError: a key that is not a typed key.

    Reference:
        Shumaylov et al., "Muon is Not That Special" (arXiv:2605.11181), Kaon. The number of steps, ``in_scale`` and the
        ``iid`` form are our reconstruction.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> tx = scale_by_kaon(jax.random.key(0), method="iid")
        >>> params = {"w": jnp.eye(4)}
        >>> updates, state = tx.update(params, tx.init(params))
        >>> bool(jnp.sum(updates["w"] * params["w"]) > 0)
        True
    """
    check_choice("method", method, ("chaotic", "iid"))
    if method == "iid" and key is None:
        raise ValueError("key is None; method 'iid' needs a typed key, for example jax.random.key(0)")
    return scale_by_spectral(
        _chaotic(steps, lam, in_scale) if method == "chaotic" else partial(_random, sampler=sampler),
        beta=beta,
        nesterov=nesterov,
        bias_correction=bias_correction,
        normalize=normalize,
        shape_scale=shape_scale,
        dimension_numbers=dimension_numbers,
        mu_dtype=mu_dtype,
        key=key if method == "iid" else None,
        mesh=mesh,
        axis=axis,
    )


def kaon(  # noqa: D417 - the shared keywords are documented in scale_by_kaon and with_adam
    learning_rate: optax.ScalarOrSchedule,
    key: Array | None = None,
    *,
    method: Method = "chaotic",
    steps: int = 5,
    lam: float = 4.1,
    in_scale: float = 1.25,
    sampler: Sampler = jax.random.uniform,
    beta: ArrayLike = 0.95,
    nesterov: bool = True,
    bias_correction: bool = True,
    normalize: Normalize = "rms",
    shape_scale: ShapeScaleName = "rms",
    dimension_numbers: DimsTree = None,
    mu_dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    axis: str | None = None,
    weight_decay: ArrayLike = 0.0,
    weight_decay_mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.95,
    adam_eps: ArrayLike = 1e-8,
    adam_weight_decay: ArrayLike = 0.0,
    adam_nesterov: bool = False,
    partition: Partition | None = None,
) -> optax.GradientTransformation:
    """Kaon for matrices, AdamW for everything else: `scale_by_kaon` inside `with_adam`.

    Under `optax.inject_hyperparams` name ``static_args=("key", "steps", "lam", "in_scale", "sampler")``: they choose
    the program.

    Args:
        learning_rate: number or schedule.
        key: typed key for ``iid``, as in `scale_by_kaon`, like all up to ``axis``, listed or not.
        dimension_numbers: here None in the tree sends a parameter to AdamW.
        mu_dtype: also of AdamW's first moment.
        weight_decay: as in `with_adam`, like all that follow, listed or not.

    Returns:
        The optimiser.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
        >>> tx = kaon(0.02, weight_decay=0.1)
        >>> updates, state = tx.update(params, tx.init(params), params)
    """
    matrices = partial(scale_by_kaon, key, method=method, steps=steps, lam=lam, in_scale=in_scale, sampler=sampler)
    return with_adam(
        matrices(
            beta=beta,
            nesterov=nesterov,
            bias_correction=bias_correction,
            normalize=normalize,
            shape_scale=shape_scale,
            dimension_numbers=dimension_numbers,
            mu_dtype=mu_dtype,
            mesh=mesh,
            axis=axis,
        ),
        learning_rate,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        adam_learning_rate=adam_learning_rate,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_eps=adam_eps,
        adam_weight_decay=adam_weight_decay,
        adam_nesterov=adam_nesterov,
        mu_dtype=mu_dtype,
        dimension_numbers=dimension_numbers,
        partition=partition,
    )


def _chaotic(steps, lam, in_scale):
    number = checked_number("steps", steps, low=1)
    if number != int(number):
        raise ValueError(f"steps is {steps}; expected an integer")
    lam = checked_number("lam", lam, low=0.0, high=LARGEST_LAM, open_low=True)
    in_scale = checked_number("in_scale", in_scale, low=1.0)
    return partial(_chaotic_matrices, steps=int(number), lam=lam, in_scale=in_scale)


def _chaotic_matrices(x: Float[Array, "batch m n"], *, steps: int, lam: float, in_scale: float):
    if x.shape[-2] == 1:
        raise ValueError(
            f"matrices have shape {x.shape[1:]}; the chaotic map would give all of them the same size. Route matrices "
            "with one row or column to another optimiser (kaon does)"
        )
    return chaotic_map(x, steps=steps, lam=lam, in_scale=in_scale)


def _random(x: Float[Array, "batch m n"], keys: Array, *, sampler: Sampler):
    return jax.vmap(partial(random_spectrum, sampler=sampler))(x, keys)

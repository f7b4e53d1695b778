"""Freon, ``F(X) = (X X^T)^(-c) X = U S^(1-2c) V^T``: any power of the spectrum, inverted ones included.

For ``c <= 1/2`` the direction is that of steepest descent in a Schatten norm. For ``c > 1/2`` it is a descent direction
that belongs to no unitarily invariant norm: sorting its singular values keeps every such norm and descends faster.
"""

from collections.abc import Callable
from functools import partial

import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import PyTree

from jaxspec.checks import check_choice
from jaxspec.linalg import spectral_power
from jaxspec.linalg.dispatch import ENGINES
from jaxspec.optim.checks import checked_number
from jaxspec.optim.layout import DimsTree
from jaxspec.optim.normalization import Dual
from jaxspec.optim.partition import Partition, with_adam
from jaxspec.optim.spectral import Normalize, ShapeScaleName, scale_by_spectral

Exponent = ArrayLike | Callable[[ArrayLike], ArrayLike]
_TRACEABLE = ("svd", "eigh")  # engines whose program does not depend on c


def scale_by_freon(  # noqa: D417 - the shared keywords are documented in scale_by_spectral
    c: Exponent = 0.75,
    *,
    eps: ArrayLike = 1e-3,
    tol: float = 1e-2,
    engine: str = "auto",
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
    r"""Momentum, then the power ``s (s^2 + (eps sigma)^2)^(-c)`` of every singular value, ``sigma = ||X||_F``.

    ``c = 0`` is normalised SGD, 1/4 Schatten-3 steepest descent, 1/2 Muon, above 1/2 the spectrum is inverted (no norm
    has that direction as its steepest descent), 1 the direction of the pseudo-inverse.

    Args:
        c: exponent; a number or, with engines svd and eigh, a schedule (a function of the count) or a traced number.
        eps: regularisation relative to the scale of the matrix; keeps noise directions from being amplified. Traced
            only with engines svd and eigh.
        tol: worst relative error of the singular values (see `jaxspec.linalg.spectral_power`).
        engine: how the map is computed (see `jaxspec.linalg.spectral_power`).
        beta: as in `scale_by_spectral`, like all that follow, listed or not.
        normalize: here also ``dual``, ``<X, Y>^((1-q)/q) Y`` with ``q = 2 - 2c``, the paper's (``c < 1``). Its size
            depends on ``c``, so learning rates do not carry over; ``rms`` serves all ``c`` with one.

    Returns:
        The transformation.

    Raises:
        ValueError: ``c`` not finite, ``eps`` < 0, ``tol`` <= 0, ``normalize="dual"`` with ``c >= 1``, a varying ``c``
            with an engine whose program depends on it.

    Warns:
        UserWarning: at ``update``, ``c > 1/2`` with ``eps = 0`` and an engine without a floor.

    Reference:
        Shumaylov et al., "Muon is Not That Special" (arXiv:2605.11181). The normalisations ``rms`` and ``spectral`` and
        the regularisation are ours.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = scale_by_freon(0.75, eps=0.0, engine="recombine", normalize="dual", shape_scale="none", tol=1e-2)
        >>> params = {"w": jnp.zeros((2, 2))}
        >>> updates, _ = tx.update({"w": jnp.diag(jnp.array([4.0, 1.0]))}, tx.init(params))
        >>> [round(float(s), 1) for s in jnp.diag(updates["w"])]  # the smaller value gets the larger step
        [1.5, 3.0]
    """
    eps = checked_number("eps", eps, low=0.0)
    tol = checked_number("tol", tol, low=0.0, open_low=True)
    if not callable(c):
        c = checked_number("c", c)
    check_choice("engine", engine, ENGINES)
    if not isinstance(c, float) and engine not in _TRACEABLE:
        raise ValueError(f"c is a schedule or traced and engine is {engine!r}; expected one of {_TRACEABLE}")

    def at(c):
        return scale_by_spectral(
            partial(spectral_power, c=c, eps=eps, tol=tol, engine=engine),
            beta=beta,
            nesterov=nesterov,
            bias_correction=bias_correction,
            normalize=Dual(2 - 2 * c) if normalize == "dual" else normalize,
            shape_scale=shape_scale,
            dimension_numbers=dimension_numbers,
            mu_dtype=mu_dtype,
            mesh=mesh,
            axis=axis,
        )

    if not callable(c):
        return at(c)

    def update(updates, state, params=None):
        return at(c(state.count)).update(updates, state, params)

    return optax.GradientTransformation(at(0.0).init, update)


def freon(  # noqa: D417 - the shared keywords are documented in scale_by_freon and with_adam
    learning_rate: optax.ScalarOrSchedule,
    c: Exponent = 0.75,
    *,
    eps: ArrayLike = 1e-3,
    tol: float = 1e-2,
    engine: str = "auto",
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
    """Freon for matrices, AdamW for everything else: `scale_by_freon` inside `with_adam`.

    Under `optax.inject_hyperparams` name ``static_args=("c", "eps", "tol")``: they choose the program (with engines svd
    and eigh only ``tol`` does).

    Args:
        learning_rate: number or schedule.
        c: exponent, as in `scale_by_freon`, like all up to ``axis``, listed or not.
        dimension_numbers: here None in the tree sends a parameter to AdamW.
        mu_dtype: also of AdamW's first moment.
        weight_decay: as in `with_adam`, like all that follow, listed or not.

    Returns:
        The optimiser.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
        >>> tx = freon(0.02, weight_decay=0.1)
        >>> updates, state = tx.update(params, tx.init(params), params)
    """
    matrices = partial(scale_by_freon, c, eps=eps, tol=tol, engine=engine)
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

"""Proximal operators of the nuclear norm: singular-value thresholding, alone and with a ridge.

One formula, ``X = U diag(s) V^T -> U diag(max(s - threshold, 0)) V^T``, the proximal operator of ``threshold *
||.||_*``.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxspec.linalg.scaling import compute_dtype
from jaxspec.linalg.spectral_map import Engine, spectral_map
from jaxspec.prox.checks import batch_values


def svt(
    x: Float[Array, "*batch m n"], threshold: ArrayLike, *, method: Engine = "auto", return_norm: bool = False
) -> Float[Array, "*batch m n"] | tuple[Float[Array, "*batch m n"], Float[Array, "*batch"]]:
    r"""``argmin_Y 1/2 ||Y - X||_F^2 + threshold * ||Y||_*``: singular-value thresholding.

    The minimiser is ``U diag(max(s - threshold, 0)) V^T``.

    Args:
        x: matrices, with leading batch axes. bfloat16 and float16 are computed in float32 and cast back.
        threshold: >= 0, in the units of ``x``; scalar or broadcast over the batch axes. 0 returns ``x`` to rounding,
            infinity zeros.
        method: ``gram``, ``qr``, ``svd`` or ``auto`` (``gram`` where that is accurate, else ``qr``); see
            `jaxspec.linalg.spectral_map`.
        return_norm: also return the nuclear norm of the result, which is free.

    Returns:
        The thresholded matrices and, on request, their nuclear norms (accurate to about 1e-5 in float32 with ``gram``:
        good for monitoring, not for certificates). Differentiable in ``x`` and ``threshold`` wherever no singular value
        equals it.

    Raises:
        ValueError: negative or NaN ``threshold`` (checked where its value is known, not under a trace), or a shape that
            does not broadcast over the batch axes.
        TypeError: integer or complex ``x``.

    Reference:
        Cai, Candes & Shen, "A singular value thresholding algorithm for matrix completion", SIAM J. Optim. 20 (2010),
        Theorem 2.1.

    Example:
        >>> import jax.numpy as jnp
        >>> svt(jnp.diag(jnp.array([3.0, 1.0])), 2.0)
        Array([[1., 0.],
               [0., 0.]], dtype=float32)
    """
    threshold = batch_values(x, threshold, "threshold")
    return _shrink(x, threshold, jnp.zeros((), threshold.dtype), method, return_norm)


def nuclear_ridge(
    x: Float[Array, "*batch m n"],
    threshold: ArrayLike,
    ridge: ArrayLike,
    *,
    method: Engine = "auto",
    return_norm: bool = False,
) -> Float[Array, "*batch m n"] | tuple[Float[Array, "*batch m n"], Float[Array, "*batch"]]:
    r"""``argmin_Y 1/2 ||Y - X||_F^2 + threshold * ||Y||_* + ridge/2 * ||Y||_F^2``.

    The minimiser is ``U diag(max(s - threshold, 0) / (1 + ridge)) V^T``.

    Args:
        x: matrices, with leading batch axes.
        threshold: >= 0, in the units of ``x``; scalar or broadcast over the batch axes.
        ridge: >= 0, dimensionless; scalar or broadcast over the batch axes. Infinity gives zeros.
        method: as in `svt`.
        return_norm: also return the nuclear norm of the result.

    Returns:
        The matrices and, on request, their nuclear norms.

    Raises:
        ValueError: negative or NaN ``threshold`` or ``ridge``, or a shape that does not broadcast over the batch axes.
        TypeError: integer or complex ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> nuclear_ridge(jnp.diag(jnp.array([3.0, 1.0])), 1.0, 1.0)
        Array([[1., 0.],
               [0., 0.]], dtype=float32)
    """
    return _shrink(x, batch_values(x, threshold, "threshold"), batch_values(x, ridge, "ridge"), method, return_norm)


@partial(jax.jit, static_argnames=("method", "return_norm"))
def _shrink(x, threshold, ridge, method, return_norm):
    def shrink(s):
        return jnp.maximum(s - threshold[..., None], 0) / (1 + ridge[..., None])

    y, values = spectral_map(
        x.astype(compute_dtype(x)), shrink, engine=method, floor=threshold, rcond=0.0, return_values=True
    )
    y = y.astype(x.dtype)
    return (y, jnp.sum(values, axis=-1).astype(x.dtype)) if return_norm else y

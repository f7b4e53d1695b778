"""The tubal nuclear norm of third-order tensors, its proximal operator and its dual norm.

``f(X) = (1/n3) sum_k ||fft(X, axis=-1)_k||_*`` over the ``n3`` frontal slices in the Fourier domain. By Parseval both
the norm and the squared distance decouple over the slices, and for real ``X`` the slices ``k`` and ``n3 - k`` are
conjugates: half of them suffice. Reference: Lu, Feng, Chen, Liu, Lin & Yan, "Tensor robust PCA with a new tensor
nuclear norm", IEEE TPAMI 42 (2020).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxspec.linalg.scaling import compute_dtype
from jaxspec.linalg.singular_values import singular_values, spectral_norm
from jaxspec.linalg.spectral_map import Engine, spectral_map
from jaxspec.prox.checks import batch_values


def tubal_svt(
    x: Float[Array, "*batch n1 n2 n3"], threshold: ArrayLike, *, method: Engine = "auto", return_norm: bool = False
) -> Float[Array, "*batch n1 n2 n3"] | tuple[Float[Array, "*batch n1 n2 n3"], Float[Array, "*batch"]]:
    r"""``argmin_Y 1/2 ||Y - X||_F^2 + threshold * f(Y)``, ``f`` the tubal nuclear norm.

    The minimiser is the SVT at the same ``threshold`` of every Fourier slice.

    Args:
        x: tensors, with leading batch axes; the last axis is transformed.
        threshold: >= 0, in the units of the Fourier slices (sums over the last axis); scalar or broadcast over the
            batch axes.
        method: as in `jaxspec.prox.svt`; ``auto`` decides once for all slices.
        return_norm: also return ``f`` of the result.

    Returns:
        The thresholded tensors and, on request, their tubal nuclear norms.

    Raises:
        ValueError: fewer than three axes, negative or NaN ``threshold``, or a shape that does not broadcast over the
            batch axes.
        TypeError: integer or complex ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> tubal_svt(jnp.ones((1, 1, 4)), 2.0)
        Array([[[0.5, 0.5, 0.5, 0.5]]], dtype=float32)
    """
    return _tubal_svt(x, batch_values(x, threshold, "threshold", matrix_axes=3), method, return_norm)


def tubal_norm(x: Float[Array, "*batch n1 n2 n3"]) -> Float[Array, "*batch"]:
    """Tubal nuclear norm ``(1/n3) sum_k ||fft(X, axis=-1)_k||_*``, from true singular values.

    Args:
        x: tensors, with leading batch axes.

    Returns:
        One norm per tensor; 0 for an empty one.

    Example:
        >>> import jax.numpy as jnp
        >>> tubal_norm(jnp.ones((1, 1, 4)))
        Array(1., dtype=float32)
    """
    values = singular_values(_slices(x.astype(compute_dtype(x))))
    return _mean_over_slices(jnp.sum(values, axis=-1), x.shape[-1]).astype(x.dtype)


def tubal_spectral_norm(x: Float[Array, "*batch n1 n2 n3"]) -> Float[Array, "*batch"]:
    """Dual of the tubal nuclear norm, ``max_k ||fft(X, axis=-1)_k||_2``.

    Args:
        x: tensors, with leading batch axes.

    Returns:
        One norm per tensor; 0 for an empty one.

    Example:
        >>> import jax.numpy as jnp
        >>> tubal_spectral_norm(jnp.ones((1, 1, 4)))
        Array(4., dtype=float32)
    """
    return jnp.max(spectral_norm(_slices(x.astype(compute_dtype(x)))), axis=-1, initial=0).astype(x.dtype)


@partial(jax.jit, static_argnames=("method", "return_norm"))
def _tubal_svt(x, threshold, method, return_norm):
    if x.size == 0:
        return (x, jnp.zeros(x.shape[:-3], x.dtype)) if return_norm else x
    length = x.shape[-1]
    y, values = spectral_map(
        _slices(x.astype(compute_dtype(x))),
        lambda s: jnp.maximum(s - threshold[..., None, None], 0),
        engine=method,
        floor=threshold[..., None],
        rcond=0.0,
        return_values=True,
    )
    y = jnp.fft.irfft(jnp.moveaxis(y, -3, -1), length, axis=-1).astype(x.dtype)
    return (y, _mean_over_slices(jnp.sum(values, axis=-1), length).astype(x.dtype)) if return_norm else y


@partial(jax.jit, inline=True)
def _slices(x):
    """Non-redundant Fourier slices, (*batch, n3//2 + 1, n1, n2)."""
    if x.size == 0:
        return jnp.zeros((*x.shape[:-3], 0, *x.shape[-3:-1]), x.dtype)
    return jnp.moveaxis(jnp.fft.rfft(x, axis=-1), -1, -3)


@partial(jax.jit, static_argnums=1, inline=True)
def _mean_over_slices(values, length):
    k = jnp.arange(values.shape[-1])
    multiplicity = jnp.where((k == 0) | (2 * k == length), 1, 2)
    return jnp.sum(values * multiplicity, axis=-1) / max(length, 1)

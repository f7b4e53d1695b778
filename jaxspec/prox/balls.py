"""Euclidean projections onto the balls of the spectral and of the nuclear norm."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxspec.linalg.scaling import compute_dtype
from jaxspec.linalg.spectral_map import Engine, spectral_map
from jaxspec.prox.checks import batch_values
from jaxspec.prox.nuclear import svt


def project_spectral_ball(
    x: Float[Array, "*batch m n"], radius: ArrayLike, *, method: Engine = "auto"
) -> Float[Array, "*batch m n"]:
    r"""``argmin_Y 1/2 ||Y - X||_F^2`` subject to ``||Y||_2 <= radius``: ``U diag(min(s, radius)) V^T``.

    Args:
        x: matrices, with leading batch axes. Points of the ball are returned to rounding.
        radius: >= 0; scalar or broadcast over the batch axes. 0 gives zeros, infinity the matrix itself.
        method: ``auto`` and ``svd`` clip the singular values of a thin SVD, feasible to a few ``eps * radius``.
            ``gram`` and ``qr`` use ``X - svt(X, radius)`` (Moreau), faster, but feasible only to the error of `svt`,
            which is relative to ``s_1``.

    Returns:
        The projections. Differentiable where no singular value equals ``radius``.

    Raises:
        ValueError: negative or NaN ``radius`` (where its value is known), or a shape that does not broadcast over the
            batch axes.
        TypeError: integer or complex ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> project_spectral_ball(jnp.diag(jnp.array([3.0, 1.0])), 2.0)
        Array([[2., 0.],
               [0., 1.]], dtype=float32)
    """
    radius = batch_values(x, radius, "radius")
    if method in ("gram", "qr"):
        y = x.astype(compute_dtype(x))
        return (y - svt(y, radius, method=method)).astype(x.dtype)
    return _clip(x, radius, method)


def project_nuclear_ball(
    x: Float[Array, "*batch m n"], radius: ArrayLike, *, method: Engine = "auto"
) -> Float[Array, "*batch m n"]:
    r"""``argmin_Y 1/2 ||Y - X||_F^2`` subject to ``||Y||_* <= radius``: ``U diag(max(s - theta, 0)) V^T``.

    ``theta = max(0, max_k (s_1 + ... + s_k - radius)/k)`` is the threshold at which the nuclear norm equals ``radius``,
    and 0 inside.

    Args:
        x: matrices, with leading batch axes. Points of the ball are returned to rounding.
        radius: >= 0; scalar or broadcast over the batch axes. 0 gives zeros, infinity the matrix itself.
        method: engine; ``auto`` is ``qr``. ``gram`` is inaccurate where ``theta`` is far below ``s_1``.

    Returns:
        The projections. Differentiable where no singular value equals ``theta`` and the norm differs from ``radius``.

    Raises:
        ValueError: negative or NaN ``radius`` (where its value is known), or a shape that does not broadcast over the
            batch axes.
        TypeError: integer or complex ``x``.

    Reference:
        Duchi, Shalev-Shwartz, Singer & Chandra, "Efficient projections onto the l1-ball", ICML 2008 (the simplex
        projection).

    Example:
        >>> import jax.numpy as jnp
        >>> project_nuclear_ball(jnp.diag(jnp.array([3.0, 1.0])), 2.0)
        Array([[2., 0.],
               [0., 0.]], dtype=float32)
    """
    return _simplex(x, batch_values(x, radius, "radius"), "qr" if method == "auto" else method)


def l1_shift(
    values: Float[Array, "*batch r"], radius: Float[Array, "*#batch"], weights: Float[Array, " r"] | None = None
) -> tuple[Float[Array, "*batch 1"], Float[Array, "*batch 1"]]:
    """The projection of ``values`` on ``sum_i w_i |v_i| <= radius`` is ``max(values - top - shift, 0)``.

    Values that stay positive lie within the radius of the largest: measured from there, rounding is relative to the
    radius. Weights w belong to the metric as well, ``sum_i w_i (v_i - y_i)^2``.

    Args:
        values: >= 0, in descending order.
        radius: >= 0.
        weights: > 0; None: 1.

    Returns:
        The largest value, and the threshold minus it: ``-top`` inside.
    """
    top = values[..., :1]
    below = values - top
    if weights is None:
        sums, counts = jnp.cumsum(below, axis=-1), jnp.arange(1, values.shape[-1] + 1, dtype=values.dtype)
    else:
        sums, counts = jnp.cumsum(weights * below, axis=-1), jnp.cumsum(weights)
    theta = jnp.max((sums - radius[..., None]) / counts, axis=-1, keepdims=True)
    return top, jnp.maximum(theta, -top)


@partial(jax.jit, static_argnames="method")
def _clip(x, radius, method):
    return spectral_map(x, lambda s: jnp.minimum(s, radius[..., None]), engine=method, rcond=0.0)


@partial(jax.jit, static_argnames="method")
def _simplex(x, radius, method):
    def shrink(s):
        top, shift = l1_shift(s, radius)
        return jnp.maximum(s - top - shift, 0)

    return spectral_map(x, shrink, engine=method, rcond=0.0)

"""The size of an update: functions ``(x, y) -> y'`` that rescale every ``Y = U f(S) V^T``, and factors of the shape.

Both run per matrix. All norms are taken of ``Y`` divided by a power of two, so they neither overflow nor vanish, and
``Y = 0`` stays 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact

from jaxspec.checks import is_concrete
from jaxspec.linalg.scaling import conjugate_transpose, power_of_two_scale

Normalizer = Callable[[Array, Array], Array]
ShapeScale = Callable[[int, int], float]
_POWER_STEPS = 8
_HIGHEST = jax.lax.Precision.HIGHEST


@partial(jax.jit, inline=True)
def rms(x: Inexact[Array, "*batch m n"], y: Inexact[Array, "*batch m n"]) -> Inexact[Array, "*batch m n"]:
    """Scale to the size of a polar factor, ``||Y||_F = sqrt(min(m, n))``, so that one learning rate serves every map.

    Args:
        x: what was mapped (unused).
        y: its image.

    Returns:
        The rescaled image.

    Example:
        >>> import jax.numpy as jnp
        >>> rms(jnp.eye(2), 3e30 * jnp.eye(2)).round(3)
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    scaled, _ = _scaled(y)
    size = math.sqrt(min(y.shape[-2:]))
    return scaled * _ratio(size, jnp.sqrt(_inner(scaled, scaled)))


@partial(jax.jit, inline=True)
def spectral(x: Inexact[Array, "*batch m n"], y: Inexact[Array, "*batch m n"]) -> Inexact[Array, "*batch m n"]:
    """Scale the largest singular value to 1, found from below by 8 power steps on ``Y Y^H``.

    Args:
        x: what was mapped (unused).
        y: its image.

    Returns:
        The rescaled image.
    """
    scaled, _ = _scaled(y)
    adjoint = conjugate_transpose(scaled)
    # A fixed Gaussian start is orthogonal to no singular vector that a gradient is likely to have.
    v = jax.random.normal(jax.random.key(0), (y.shape[-2], 1), scaled.real.dtype)
    v = jnp.broadcast_to(v, (*y.shape[:-1], 1)).astype(scaled.dtype)
    for _ in range(_POWER_STEPS):
        v = jnp.matmul(scaled, jnp.matmul(adjoint, v, precision=_HIGHEST), precision=_HIGHEST)
        v = v * _ratio(1.0, jnp.sqrt(_inner(v, v)))
    image = jnp.matmul(adjoint, v, precision=_HIGHEST)
    return scaled * _ratio(1.0, jnp.sqrt(_inner(image, image)))


def unchanged(x: Inexact[Array, "*batch m n"], y: Inexact[Array, "*batch m n"]) -> Inexact[Array, "*batch m n"]:
    """Leave the size as the map returned it.

    Args:
        x: what was mapped (unused).
        y: its image.

    Returns:
        ``y``.
    """
    return y


@partial(jax.jit, inline=True)
def adaptive(x: Inexact[Array, "*batch m n"], y: Inexact[Array, "*batch m n"]) -> Inexact[Array, "*batch m n"]:
    """Multiply by the dual norm of every matrix, ``<X, Y> Y``: for Muon ``||X||_* U V^T``, of degree 1 in ``X``.

    `optax.contrib.muon` with ``adaptive=True`` sums ``<X, Y>`` over the matrices of a stack; here each has its own.

    Args:
        x: what was mapped.
        y: its image.

    Returns:
        The rescaled image.

    Reference:
        Bernstein & Newhouse, "Old optimizer, new norm: an anthology" (arXiv:2409.20325).
    """
    (scaled_x, a), (scaled_y, b) = _scaled(x), _scaled(y)
    real = y.real.dtype
    return scaled_y * (_inner(scaled_x, scaled_y) * b.astype(real) * b.astype(real)) * a.astype(real)


@dataclass(frozen=True)
class Dual:
    """Scale ``Y = U S^(q-1) V^T`` to the gradient of the Schatten (quasi-)norm, ``O = <X, Y>^((1-q)/q) Y``.

    Since ``<X, Y> = ||X||_q^q``, ``<X, O> = ||X||_q`` whatever the scale of ``X``. An identity for the exact power; for
    a regularised map it is the definition.

    Attributes:
        q: dual exponent, positive; ``2 - 2c`` for Freon. May be traced.

    Reference:
        Shumaylov et al., "Muon is Not That Special" (arXiv:2605.11181), the normalisation of Freon.

    Example:
        >>> import jax.numpy as jnp
        >>> Dual(0.5)(jnp.diag(jnp.array([4.0, 1.0])), jnp.diag(jnp.array([0.5, 1.0])))
        Array([[1.5, 0. ],
               [0. , 3. ]], dtype=float32)
    """

    q: ArrayLike

    def __post_init__(self):
        if is_concrete(self.q) and not np.all(np.asarray(self.q) > 0):
            raise ValueError(f"q is {self.q}; expected q > 0 (c < 1) for the dual normalisation")

    def __call__(
        self, x: Inexact[Array, "*batch m n"], y: Inexact[Array, "*batch m n"]
    ) -> Inexact[Array, "*batch m n"]:
        """Rescale ``y``, the image of ``x``."""
        return _dual(x, y, (1 - self.q) / self.q)


@partial(jax.jit, inline=True)
def _dual(x, y, power):
    (scaled_x, a), (scaled_y, b) = _scaled(x), _scaled(y)
    inner = _inner(scaled_x, scaled_y)
    # <X, Y> is out of range for huge and tiny X though O is not: add the scales' exponents before exponentiating.
    exponent = power * (jnp.log2(a) + jnp.log2(b)) + jnp.log2(b)
    factor = jnp.where(inner == 0, 0, jnp.where(inner == 0, 1, inner) ** power * jnp.exp2(exponent))
    return scaled_y * factor.astype(scaled_y.real.dtype)


def normalizer(normalize: str | Normalizer) -> Normalizer:
    """The function behind a name: ``"rms"``, ``"spectral"``, ``"none"``; a function is returned as it is.

    Raises:
        ValueError: another name. ``"dual"`` needs the exponent of the map, so it is spelled ``Dual(q)`` here.
    """
    named = {"rms": rms, "spectral": spectral, "none": unchanged}
    if callable(normalize):
        return normalize
    if normalize == "dual":
        raise ValueError(
            "normalize is 'dual', which needs the exponent of the map; pass normalization.Dual(q), or use "
            "scale_by_freon or scale_by_muon"
        )
    if normalize not in named:
        raise ValueError(f"normalize is {normalize!r}; expected one of {sorted(named)} or a function of (x, y)")
    return named[normalize]


def shape_factor(shape_scale: Literal["keller", "rms", "mup", "none"] | ShapeScale) -> ShapeScale:
    """The factor of ``(fan_in, fan_out)`` behind a name; a function is returned as it is.

    ``keller`` sqrt(max(1, fan_out/fan_in)); ``rms`` 0.2 sqrt(max(fan_in, fan_out)), which gives a polar factor the
    root mean square of an Adam update; ``mup`` sqrt(fan_out/fan_in); ``none`` 1.

    Raises:
        ValueError: another name.

    Example:
        >>> shape_factor("mup")(4, 16)
        2.0
    """
    named = {
        "keller": lambda fan_in, fan_out: math.sqrt(max(1, fan_out / fan_in)),
        "rms": lambda fan_in, fan_out: 0.2 * math.sqrt(max(fan_in, fan_out)),
        "mup": lambda fan_in, fan_out: math.sqrt(fan_out / fan_in),
        "none": lambda fan_in, fan_out: 1.0,
    }
    if callable(shape_scale):
        return shape_scale
    if shape_scale not in named:
        raise ValueError(
            f"shape_scale is {shape_scale!r}; expected one of {sorted(named)} or a function of (fan_in, fan_out)"
        )
    return named[shape_scale]


def _scaled(y: Inexact[Array, "*batch m n"]) -> tuple[Inexact[Array, "*batch m n"], Float[Array, "*batch 1 1"]]:
    scale = power_of_two_scale(y, keepdims=True)
    return y / scale.astype(y.real.dtype), scale


def _inner(a, b):
    return jnp.sum((a.conj() * b).real, axis=(-2, -1), keepdims=True)


def _ratio(size, norm):
    return jnp.where(norm == 0, 0, size / jnp.where(norm == 0, 1, norm))

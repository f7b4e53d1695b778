"""Targets with symmetries: kernels on the cycle, their circulant matrices, and orbits under a permutation action.

A kernel p on Z_n gives the targets ``P[i, j] = p[(i - j) mod n]``: token i follows context j at a distance.
"""

import itertools
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxspec.checks import check_integers, check_numbers


def von_mises_kernel(n: int, kappa: float, shift: int = 1) -> Float[Array, " n"]:
    """``p_i`` proportional to ``exp(kappa cos(2 pi (i - shift) / n))``.

    Args:
        n: length of the cycle, >= 1 (static).
        kappa: concentration, finite.
        shift: where the kernel is largest.

    Returns:
        Probabilities, in the default precision.

    Raises:
        ValueError: ``n < 1`` or ``kappa`` negative or not finite.

    Example:
        >>> von_mises_kernel(4, 0.0)
        Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    check_numbers(0, kappa=kappa)
    return _von_mises(_cycle(n), kappa, shift)


@partial(jax.jit, inline=True)
def _von_mises(cycle, kappa, shift):
    n = len(cycle)
    return jax.nn.softmax(kappa * jnp.cos(2 * jnp.pi * ((cycle - shift) % n) / n))


def geometric_kernel(n: int, ell: float, shift: int = 1) -> Float[Array, " n"]:
    """``p_i`` proportional to ``exp(-d(i, shift) / ell)`` with the distance d on the cycle.

    Args:
        n: length of the cycle, >= 1 (static).
        ell: decay length, > 0.
        shift: where the kernel is largest.

    Returns:
        Probabilities, in the default precision.

    Raises:
        ValueError: ``n < 1``, or ``ell`` not positive and finite.

    Example:
        >>> geometric_kernel(3, 1.0).round(3)
        Array([0.212, 0.576, 0.212], dtype=float32)
    """
    check_numbers(0, ends="()", ell=ell)
    return _geometric(_cycle(n), ell, shift)


@partial(jax.jit, inline=True)
def _geometric(cycle, ell, shift):
    n = len(cycle)
    ahead = (cycle - shift) % n
    return jax.nn.softmax(-jnp.minimum(ahead, n - ahead) / ell)


def one_hot_kernel(n: int, eps: float, shift: int = 1) -> Float[Array, " n"]:
    """``p = (1 - eps) onehot(shift) + eps / n``.

    Args:
        n: length of the cycle, >= 1 (static).
        eps: noise, in [0, 1].
        shift: where the one is.

    Returns:
        Probabilities, in the default precision.

    Raises:
        ValueError: ``n < 1`` or ``eps`` outside [0, 1].

    Example:
        >>> one_hot_kernel(4, 0.5)
        Array([0.125, 0.625, 0.125, 0.125], dtype=float32)
    """
    _check_share(eps)
    return _one_hot(_cycle(n), eps, shift)


@partial(jax.jit, inline=True)
def _one_hot(cycle, eps, shift):
    n = len(cycle)
    return (jnp.where(cycle == shift % n, 1 - eps, 0) + eps / n).astype(jnp.result_type(float))


def k_hot_targets(V: int, k: int, eps: float) -> Float[Array, "V m"]:
    """One column for each set of k tokens: ``(1 - eps) / k`` on it, plus ``eps / V`` everywhere.

    Args:
        V: number of tokens, >= 1 (static).
        k: size of the sets, 1..V (static).
        eps: noise, in [0, 1].

    Returns:
        Targets, (V, V choose k), in the default precision.

    Raises:
        ValueError: an argument out of range, or more than 100000 columns.

    Example:
        >>> k_hot_targets(3, 2, 0.0)
        Array([[0.5, 0.5, 0. ],
               [0.5, 0. , 0.5],
               [0. , 0.5, 0.5]], dtype=float32)
    """
    _check_share(eps)
    if not 1 <= k <= V:
        raise ValueError(f"k is {k}; expected an integer in [1, {V}]")
    if math.comb(V, k) > 100_000:
        raise ValueError(f"k_hot_targets({V}, {k}) has {math.comb(V, k)} columns; expected at most 100000")
    sets = jnp.asarray(list(itertools.combinations(range(V), k)))
    hot = jnp.zeros((V, sets.shape[0])).at[sets.T, jnp.arange(sets.shape[0])].set((1 - eps) / k)
    return hot + eps / V


def circulant(kernel: Any) -> Float[Array, "V m"]:
    """``Z[i, j] = kernel[(i - j) mod n]``; blocks (T, R, n) give a T x R matrix of such blocks.

    Args:
        kernel: (n,) or (T, R, n).

    Returns:
        (n, n) or (T n, R n).

    Raises:
        ValueError: any other number of axes.

    Example:
        >>> import jax.numpy as jnp
        >>> circulant(jnp.array([0.0, 1.0, 2.0]))
        Array([[0., 2., 1.],
               [1., 0., 2.],
               [2., 1., 0.]], dtype=float32)
    """
    kernel = jnp.asarray(kernel)
    if kernel.ndim not in (1, 3):
        raise ValueError(f"kernel has shape {kernel.shape}; expected (n,) or (T, R, n)")
    return _circulant(kernel if kernel.ndim == 3 else kernel[None, None])


@partial(jax.jit, inline=True)
def _circulant(blocks):
    T, R, n = blocks.shape
    index = (_cycle(n)[:, None] - _cycle(n)) % n
    return blocks[:, :, index].transpose(0, 2, 1, 3).reshape(T * n, R * n)


def _cycle(n: int) -> np.ndarray:
    check_integers(1, n=n)
    return np.arange(n)


def _check_share(eps: Any) -> None:
    check_numbers(0, 1, eps=eps)

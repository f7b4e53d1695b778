"""Matrices with known singular values, and the float64 definition every engine is compared with."""

import numpy as np


def factors(shape, spectrum, seed=0):
    """Float64 ``u, s, v`` with the given singular values (an array of length min(m, n))."""
    rng = np.random.default_rng(seed)
    rank = min(shape[-2:])
    u = np.linalg.qr(rng.normal(size=(*shape[:-1], rank)))[0]
    v = np.linalg.qr(rng.normal(size=(*shape[:-2], shape[-1], rank)))[0]
    return u, np.broadcast_to(spectrum, (*shape[:-2], rank)), v


def matrix(u, s, v):
    """``u diag(s) v^T``."""
    return (u * s[..., None, :]) @ np.swapaxes(v, -1, -2)


def definition(s, c, eps_sigma=0.0):
    """``s (s^2 + (eps sigma)^2)^(-c)``, 0 at 0."""
    radius = np.hypot(s, eps_sigma)
    return np.where(s == 0, 0, s * np.where(radius == 0, 1, radius) ** (-2 * c))


def geometric(rank, kappa):
    """Singular values from 1 down to 1/kappa."""
    return np.geomspace(1, 1 / kappa, rank)


def split(rank, kappa):
    """Half of the singular values 1, half 1/kappa: the spectrum that leaks most into the small half."""
    return np.where(np.arange(rank) < (rank + 1) // 2, 1.0, 1 / kappa)


def errors(out, u, s, v, expected):
    """Largest relative error of a singular value, and the leakage relative to the largest one."""
    core = np.swapaxes(u, -1, -2) @ np.asarray(out, np.float64) @ v
    diagonal = np.diagonal(core, axis1=-2, axis2=-1)
    live = expected != 0
    relative = np.abs(diagonal - expected)[live] / np.abs(expected)[live]
    leak = np.asarray(out, np.float64) - matrix(u, diagonal, v)
    return relative.max(initial=0), np.linalg.norm(leak, 2, axis=(-2, -1)).max() / np.abs(expected).max()

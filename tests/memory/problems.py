"""Instances and independent oracles in NumPy and SciPy, float64."""

import jax.numpy as jnp
import numpy as np
from scipy.optimize import linprog, nnls
from scipy.special import ndtri

from jaxspec.memory import Associations


def weyl(p, d):
    """Keys and values from Weyl sequences, float64."""

    def table(root):
        index = np.arange(p)[:, None] * d + np.arange(d) + 1
        return ndtri(0.998 * np.modf(index * root)[0] + 0.001) / np.sqrt(d)

    return Associations(jnp.asarray(table(np.sqrt(2))), jnp.asarray(table(np.sqrt(3))))


def rows(a, n=None):
    """Every competing pair's ``(y - c) x^T``, flattened, of the n leading associations, float64."""
    x, y = (np.asarray(v, float) for v in (a.x, a.y))
    n = len(x) if n is None else n
    pool = a.competitors is not None and a.competitors.ndim == 2
    width = len(a.competitors) if pool else n
    out = []
    for mu in range(n):
        for nu in range(width):
            if (not pool and mu == nu) or (a.right is not None and bool(a.right[mu, nu])):
                continue
            c = y[nu] if a.competitors is None else np.asarray(a.competitors[nu] if pool else a.competitors[mu, nu])
            out.append(np.outer(y[mu] - c, x[mu]).ravel())
    return np.array(out)


def separable(a, n=None):
    """Whether some W has M > 0, by a linear program (HiGHS)."""
    A = rows(a, n)
    size = A.shape[1]
    found = linprog(
        np.r_[np.zeros(size), -1.0],
        A_ub=np.c_[-A, np.ones(len(A))],
        b_ub=np.zeros(len(A)),
        bounds=[(-1, 1)] * size + [(None, 1)],
        method="highs",
    )
    return -found.fun > 1e-8


def largest_margin(a, n=None):
    """``d`` times the distance from 0 to the convex hull of the rows, by NNLS."""
    A = rows(a, n)
    weights, _ = nnls(np.vstack([A.T, np.ones(len(A))]), np.r_[np.zeros(A.shape[1]), 1.0], maxiter=100 * len(A))
    return np.sqrt(A.shape[1]) * np.linalg.norm(A.T @ weights / weights.sum())

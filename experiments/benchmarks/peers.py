"""Peers written by hand in NumPy: singular-value thresholding in two forms, and HaLRTC on either of them.

Written to be as fast as plain NumPy allows: the precision of the input, products in BLAS, buffers reused, and only the
singular vectors that survive the threshold multiplied out. Reference: Liu, Musialski, Wonka & Ye, IEEE TPAMI 35 (2013).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Svt = Callable[[np.ndarray, float], np.ndarray]


class Completion(NamedTuple):
    """What `halrtc` returns.

    Attributes:
        tensor: The completed tensor.
        iterations: Iterations it took.
    """

    tensor: np.ndarray
    iterations: int


def svt_gram(matrix: np.ndarray, threshold: float) -> np.ndarray:
    """Singular-value thresholding from the Gram matrix of the short side; the product keeps what survives.

    Args:
        matrix: Matrix, (m, n).
        threshold: > 0, in its units.

    Returns:
        ``U max(S - threshold, 0) V^T``.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return svt_gram(matrix.T, threshold).T
    squares, vectors = np.linalg.eigh(matrix @ matrix.T)
    kept = squares > threshold**2
    vectors = vectors[:, kept]
    return (vectors * (1 - threshold / np.sqrt(squares[kept]))) @ (vectors.T @ matrix)


def svt_lapack(matrix: np.ndarray, threshold: float) -> np.ndarray:
    """Singular-value thresholding from LAPACK's thin SVD, the form of the published NumPy codes.

    Args:
        matrix: Matrix, (m, n).
        threshold: >= 0, in its units.

    Returns:
        ``U max(S - threshold, 0) V^T``.
    """
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u * np.maximum(s - threshold, 0)) @ vt


def first_penalty(tensor: np.ndarray, mask: np.ndarray) -> float:
    """The penalty, averaged over the modes, whose first threshold is the largest singular value of the unfolding."""
    observed = np.where(mask, tensor, 0)
    modes = range(observed.ndim)
    return float(np.mean([1 / (observed.ndim * np.linalg.norm(_unfold(observed, mode), 2)) for mode in modes]))


def halrtc(
    tensor: np.ndarray,
    mask: np.ndarray,
    svt: Svt,
    *,
    rho: float,
    growth: float = 1.05,
    iterations: int = 100,
    tol: float = 0.0,
) -> Completion:
    """HaLRTC with equal weights: ``min mean_i ||A_i X||_*`` subject to the observed entries.

    Per mode, ``B = A_i(X + U_i)`` loses ``C = B - svt(B, 1/(N rho))``; then ``X+ = X - mean_i C_i`` off the observed
    entries and ``U_i+ = C_i + X+ - X``, the published updates without their intermediate tensors.

    Args:
        tensor: Data; entries that are not observed are not read.
        mask: True where observed.
        svt: Singular-value thresholding.
        rho: First penalty.
        growth: Factor of the penalty per iteration; 1: fixed, which converges to the optimum.
        iterations: Iterations at most.
        tol: Stop at ``||X+ - X|| < tol ||P(T)||``.

    Returns:
        The completed tensor and the iterations used.
    """
    x = np.where(mask, tensor, 0)
    modes, size = range(x.ndim), np.linalg.norm(x)
    share = np.where(mask, 0, 1 / x.ndim).astype(x.dtype)
    duals = [np.zeros_like(np.moveaxis(x, mode, 0), order="C") for mode in modes]
    step = np.empty_like(x)
    for iteration in range(1, iterations + 1):
        step[...] = 0
        for mode, dual in zip(modes, duals, strict=True):
            dual += np.moveaxis(x, mode, 0)
            matrix = dual.reshape(len(dual), -1)
            matrix -= svt(matrix, 1 / (x.ndim * rho))
            unfolded_step = np.moveaxis(step, mode, 0)
            unfolded_step -= dual
        step *= share
        x += step
        for mode, dual in zip(modes, duals, strict=True):
            dual += np.moveaxis(step, mode, 0)
            dual /= growth
        rho *= growth
        if np.linalg.norm(step) < tol * size:
            return Completion(x, iteration)
    return Completion(x, iterations)


def _unfold(tensor: np.ndarray, mode: int) -> np.ndarray:
    return np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)


class Path(NamedTuple):
    """What `soft_impute_path` returns.

    Attributes:
        tables: Completed tables, one per lambda.
        objectives: ``1/2 ||P(Y - M)||^2 + lambda ||M||_*`` of each.
        iterations: In all.
    """

    tables: np.ndarray
    objectives: np.ndarray
    iterations: int


def soft_impute_path(
    table: np.ndarray, mask: np.ndarray, lams: np.ndarray, targets: np.ndarray, *, iterations: int = 2000
) -> Path:
    """Soft-impute, ``M+ = svt(P(Y) + M - P(M), lambda)``, along a descending path with warm starts.

    It is told the objective to reach, so that it need not know when to stop.

    Args:
        table: Data; entries that are not observed are not read.
        mask: True where observed.
        lams: Weights of the nuclear norm, descending.
        targets: Objectives at which it goes on to the next lambda.
        iterations: For each lambda at most.

    Returns:
        The path. Reference: Mazumder, Hastie & Tibshirani, JMLR 11 (2010), algorithm 1.
    """
    data = np.where(mask, table, 0)
    M, tables, objectives, total = np.zeros_like(data), [], [], 0
    for lam, target in zip(lams, targets, strict=True):
        for _ in range(iterations):
            total += 1
            M, nuclear = _shrunk(data + np.where(mask, 0, M), lam)
            objective = 0.5 * np.sum(np.where(mask, data - M, 0) ** 2) + lam * nuclear
            if objective <= target:
                break
        tables.append(M)
        objectives.append(objective)
    return Path(np.stack(tables), np.asarray(objectives), total)


def _shrunk(matrix: np.ndarray, threshold: float) -> tuple[np.ndarray, float]:
    """`svt_gram` of a tall matrix, and the nuclear norm of the result."""
    squares, vectors = np.linalg.eigh(matrix.T @ matrix)
    kept = squares > threshold**2
    s, vectors = np.sqrt(squares[kept]), vectors[:, kept]
    return (matrix @ (vectors * (1 - threshold / s))) @ vectors.T, float(np.sum(s - threshold))

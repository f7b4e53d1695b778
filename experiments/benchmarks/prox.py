"""Singular-value thresholding: our four engines against NumPy's Gram and LAPACK forms."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.frame import Contestant, Row
from experiments.benchmarks.peers import svt_gram, svt_lapack
from jaxspec.prox import svt

SMALLEST, THRESHOLD = 1e-6, 0.02  # smallest singular value and threshold, both over the largest
SHAPES = ((50, 2500), (100, 10000))
DTYPES = ("float32", "float64")
ENGINES = ("gram", "qr", "svd", "auto")


def svt_row(shape: tuple[int, int], dtype: str, engine: str) -> Row:
    """One engine at one size and precision."""
    rows, columns = shape
    rng = np.random.default_rng(0)
    u, vt = (np.linalg.qr(rng.standard_normal((side, rows)))[0] for side in (rows, columns))
    s = np.logspace(0, np.log10(SMALLEST), rows)
    x = ((u * s) @ vt.T).astype(dtype)
    exact = (u * np.maximum(s - THRESHOLD, 0)) @ vt.T
    double = dtype == "float64"
    with jax.enable_x64(double):
        on_device = jnp.asarray(x)

    def ours() -> jax.Array:
        with jax.enable_x64(double):
            return svt(on_device, THRESHOLD, method=engine)

    def quality(output: Any) -> dict[str, float]:
        return {"error": float(np.linalg.norm(np.asarray(output, np.float64) - exact, 2))}

    peers = {
        "numpy_gram": Contestant(
            partial(svt_gram, x, THRESHOLD), "Gram matrix, eigh, truncated product", quality=quality
        ),
        "numpy_svd": Contestant(partial(svt_lapack, x, THRESHOLD), "LAPACK SVD, full product", quality=quality),
    }
    measured = (
        f"SVT of {rows}×{columns} {dtype}, singular values from 1 to {SMALLEST:g}, threshold {THRESHOLD:g}; "
        "error: spectral norm"
    )
    return Row(measured, Contestant(ours, f"svt, method {engine}", quality=quality), peers)


ROWS: dict[str, Callable[[], Row]] = {
    f"svt_{rows}x{columns}_{dtype}_{engine}": partial(svt_row, (rows, columns), dtype, engine)
    for rows, columns in SHAPES
    for dtype in DTYPES
    for engine in ENGINES
}

"""Leading singular triplets against dense and sparse singular value decompositions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import linalg as sparse_linalg

from experiments.benchmarks.frame import Contestant, Row, faster
from jaxspec.linalg import top_svd

SHAPE, RANK, NOISE = (2000, 1000), 3, 0.5


def top_svd_row() -> Row:
    """Rank 3 of a 2000×1000 panel with noise."""
    rng = np.random.default_rng(0)
    rows, columns = SHAPE
    signal = rng.standard_normal((rows, RANK)) @ rng.standard_normal((RANK, columns))
    x = (signal + NOISE * rng.standard_normal(SHAPE)).astype(np.float32)
    start = np.ones(columns, np.float32)
    exact = np.linalg.svd(x.astype(np.float64), compute_uv=False)[:RANK]
    on_device = jnp.asarray(x)

    def quality(output: Any) -> dict[str, float]:
        u, s, vt = (np.asarray(part, np.float64) for part in output[:3])
        leading = np.argsort(s)[::-1][:RANK]  # scipy's svds promises no order
        residual = np.linalg.norm(x @ vt[leading].T - u[:, leading] * s[leading]) / np.linalg.norm(exact)
        return {"error of s": float(np.max(np.abs(s[leading] / exact - 1))), "residual": float(residual)}

    ours = Contestant(partial(top_svd, on_device, RANK), "top_svd, cold start, 4 sweeps, oversample 8", quality=quality)
    peers = {
        "jax_svd": Contestant(
            partial(jax.jit(partial(jnp.linalg.svd, full_matrices=False)), on_device),
            "jax.numpy.linalg.svd, thin",
            quality=quality,
        ),
        "numpy_svd": Contestant(
            partial(np.linalg.svd, x, full_matrices=False), "numpy.linalg.svd, thin", quality=quality
        ),
        "scipy_svds": Contestant(
            partial(sparse_linalg.svds, x, k=RANK, v0=start), "scipy.sparse.linalg.svds, ARPACK, tol 0", quality=quality
        ),
    }
    measured = f"Leading {RANK} singular triplets of {rows}×{columns} float32, rank {RANK} plus noise"
    return Row(measured, ours, peers, aims=(faster("jax_svd", 10), faster("numpy_svd", 10)))


ROWS: dict[str, Callable[[], Row]] = {"top_svd_2000x1000": top_svd_row}

"""``python -m jaxspec``: versions, devices, and a few functions checked against NumPy.

Each check compares one function with the same formula written on `numpy.linalg.svd` in double precision. It answers one
question after an installation: do this interpreter, this JAX and this device compute what the library says?
"""

import platform
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import jaxspec
from jaxspec import completion, linalg, optim, prox

OK, FAILED = 0, 1
PACKAGES = ("jax", "jaxlib", "numpy", "optax", "equinox")
DIRECT, ITERATIVE = 1e-5, 2e-3  # relative to the largest entry; the default engines promise 1e-3 of a singular value


class Check(NamedTuple):
    """A function of the library beside its formula on NumPy's decomposition of the same matrix.

    Attributes:
        name: of the function.
        ours: matrix (m, n) -> array, by the library.
        formula: U (m, r), s (r,), V^T (r, n) -> array, the same shape.
        tolerance: largest difference allowed, relative to the largest entry of the formula's value.
    """

    name: str
    ours: Callable[[jax.Array], ArrayLike]
    formula: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    tolerance: float


CHECKS = (
    Check("linalg.singular_values", linalg.singular_values, lambda u, s, vt: s, DIRECT),
    Check("linalg.polar", linalg.polar, lambda u, s, vt: u @ vt, ITERATIVE),
    Check(
        "linalg.smoothed_polar",
        lambda x: linalg.smoothed_polar(x, 0.5),
        lambda u, s, vt: (u * (s / np.hypot(s, 0.5))) @ vt,
        DIRECT,
    ),
    Check(
        "linalg.spectral_power",
        lambda x: linalg.spectral_power(x, 0.25),
        lambda u, s, vt: (u * s**0.5) @ vt,
        ITERATIVE,
    ),
    Check("prox.svt", lambda x: prox.svt(x, 2.0), lambda u, s, vt: (u * np.maximum(s - 2, 0)) @ vt, DIRECT),
    Check(
        "completion.soft_impute",
        lambda x: completion.soft_impute(x, None, 2.0).M,  # nothing is missing: one thresholding
        lambda u, s, vt: (u * np.maximum(s - 2, 0)) @ vt,
        1e-4,  # stops at a relative duality gap of 1e-5
    ),
    Check("optim.scale_by_muon", lambda x: _first_step(x), lambda u, s, vt: u @ vt, 1e-2),  # its own default
)


def main(checks: Sequence[Check] = CHECKS) -> int:
    """Prints the report.

    Args:
        checks: what to check.

    Returns:
        Exit status: 0, or 1 when a check fails.
    """
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    print(f"jaxspec {jaxspec.__version__}")
    print(f"python {platform.python_version()}, {versions}")
    print(f"devices: {', '.join(f'{device} ({device.device_kind})' for device in jax.devices())}")
    width = max(len(check.name) for check in checks)
    failures = 0
    for check in checks:
        error, trouble = _error(check)
        holds = error <= check.tolerance  # NaN does not
        failures += not holds
        print(
            f"{'ok    ' if holds else 'FAILED'}  {check.name:{width}}  error {error:.1e}, at most {check.tolerance:.0e}"
            f"{trouble}"
        )
    print(f"{len(checks) - failures} passed, {failures} failed")
    return FAILED if failures else OK


def _error(check: Check) -> tuple[float, str]:
    """Largest relative difference, NaN with the reason where nothing came out."""
    matrix = np.random.default_rng(0).standard_normal((24, 16))
    wanted = check.formula(*np.linalg.svd(matrix, full_matrices=False))
    try:
        found = np.asarray(check.ours(jnp.asarray(matrix, jnp.float32)), np.float64)
    except Exception as error:  # whatever breaks on a stranger's machine: the other checks still say something
        return float("nan"), f" ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    if found.shape != wanted.shape:
        return float("nan"), f" (shape {found.shape}, not {wanted.shape})"
    return float(np.abs(found - wanted).max() / np.abs(wanted).max()), ""


def _first_step(gradient: jax.Array) -> jax.Array:
    optimizer = optim.scale_by_muon(shape_scale="none")
    update, _ = optimizer.update(gradient, optimizer.init(jnp.zeros_like(gradient)))
    return update


if __name__ == "__main__":
    sys.exit(main())

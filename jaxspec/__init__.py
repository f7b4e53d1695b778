"""Spectral methods in JAX: functions of singular values, solvers built on them, and theories that predict them.

Everything here is a function of the singular values of a matrix, ``X = U diag(s) V^T -> U diag(f(s)) V^T``, or is built
on one. Import the package you need (``jaxspec.linalg``, ``jaxspec.prox``, ``jaxspec.solvers``, ...): this module
imports none of them, and none of them sets a global JAX flag.
"""

from importlib import metadata

try:
    __version__ = metadata.version("jaxspec-lab")
except metadata.PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0.0.0+unknown"

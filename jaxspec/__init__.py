"""Spectral methods in JAX: functions of singular values, solvers built on them, and theories that predict them.

Everything here is a function of the singular values of a matrix, ``X = U diag(s) V^T -> U diag(f(s)) V^T``, or is built
on one. Import the package you need (``jaxspec.linalg``, ``jaxspec.prox``, ``jaxspec.solvers``, ...): this module
imports none of them, and none of them sets a global JAX flag.
"""

__version__ = "0.1.0"

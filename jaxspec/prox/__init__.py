"""Proximal operators, projections and linear minimisation oracles of spectral functions."""

from jaxspec.prox.nuclear import nuclear_ridge, svt

__all__ = ["nuclear_ridge", "svt"]

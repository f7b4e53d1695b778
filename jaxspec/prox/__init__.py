"""Proximal operators, projections and linear minimisation oracles of functions of singular values."""

from jaxspec.prox.balls import project_nuclear_ball, project_spectral_ball
from jaxspec.prox.nuclear import nuclear_ridge, svt
from jaxspec.prox.schatten import lmo_schatten, schatten_threshold
from jaxspec.prox.tubal import tubal_norm, tubal_spectral_norm, tubal_svt

__all__ = [
    "lmo_schatten",
    "nuclear_ridge",
    "project_nuclear_ball",
    "project_spectral_ball",
    "schatten_threshold",
    "svt",
    "tubal_norm",
    "tubal_spectral_norm",
    "tubal_svt",
]

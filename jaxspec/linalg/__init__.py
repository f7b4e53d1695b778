"""Functions of singular values and the engines that compute them."""

from jaxspec.linalg import coefficients
from jaxspec.linalg.decompositions import eigh, ordered
from jaxspec.linalg.orthonormal import orthonormal_basis
from jaxspec.linalg.random_spectra import chaotic_map, random_spectrum
from jaxspec.linalg.schatten import schatten_direction, schatten_norm
from jaxspec.linalg.singular_values import singular_values, spectral_norm
from jaxspec.linalg.smoothed_polar import (
    smoothed_nuclear_norm,
    smoothed_nuclear_norm_conjugate,
    smoothed_polar,
    smoothed_polar_hvp,
    smoothed_polar_inverse,
)
from jaxspec.linalg.spectral_map import spectral_map
from jaxspec.linalg.spectral_power import polar, spectral_power
from jaxspec.linalg.subspace import TopSVD, operator_top_svd, top_svd

__all__ = [
    "TopSVD",
    "chaotic_map",
    "coefficients",
    "eigh",
    "operator_top_svd",
    "ordered",
    "orthonormal_basis",
    "polar",
    "random_spectrum",
    "schatten_direction",
    "schatten_norm",
    "singular_values",
    "smoothed_nuclear_norm",
    "smoothed_nuclear_norm_conjugate",
    "smoothed_polar",
    "smoothed_polar_hvp",
    "smoothed_polar_inverse",
    "spectral_map",
    "spectral_norm",
    "spectral_power",
    "top_svd",
]

"""Functions of singular values and the engines that compute them."""

from jaxspec.linalg.decompositions import eigh, ordered
from jaxspec.linalg.singular_values import singular_values, spectral_norm
from jaxspec.linalg.spectral_map import spectral_map
from jaxspec.linalg.subspace import TopSVD, operator_top_svd, top_svd

__all__ = [
    "TopSVD",
    "eigh",
    "operator_top_svd",
    "ordered",
    "singular_values",
    "spectral_map",
    "spectral_norm",
    "top_svd",
]

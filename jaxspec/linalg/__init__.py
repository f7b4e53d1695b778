"""Functions of singular values and the engines that compute them."""

from jaxspec.linalg.decompositions import eigh, ordered
from jaxspec.linalg.singular_values import singular_values, spectral_norm
from jaxspec.linalg.spectral_map import spectral_map

__all__ = ["eigh", "ordered", "singular_values", "spectral_map", "spectral_norm"]

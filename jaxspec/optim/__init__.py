"""Optimisers that act on the singular values of gradients, as optax transformations."""

from jaxspec.optim.freon import freon, scale_by_freon
from jaxspec.optim.grasp import GraspState, grasp
from jaxspec.optim.kaon import kaon, scale_by_kaon
from jaxspec.optim.layout import MatrixDims, qkv_dims
from jaxspec.optim.muon import from_optax_muon_state, muon, scale_by_muon
from jaxspec.optim.partition import matrix_partition, with_adam
from jaxspec.optim.projection import ProjectionState, project_updates
from jaxspec.optim.regularized import regularized_muon
from jaxspec.optim.spectral import SpectralState, scale_by_spectral
from jaxspec.optim.truncated import truncated_sgd

__all__ = [
    "GraspState",
    "MatrixDims",
    "ProjectionState",
    "SpectralState",
    "freon",
    "from_optax_muon_state",
    "grasp",
    "kaon",
    "matrix_partition",
    "muon",
    "project_updates",
    "qkv_dims",
    "regularized_muon",
    "scale_by_freon",
    "scale_by_kaon",
    "scale_by_muon",
    "scale_by_spectral",
    "truncated_sgd",
    "with_adam",
]

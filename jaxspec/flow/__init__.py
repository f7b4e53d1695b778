"""Muon as a damped Hamiltonian flow of particles: integrators, energies, certificates, propagation of chaos."""

from jaxspec.flow import moe
from jaxspec.flow.chaos import ChaosResult, coupling_error
from jaxspec.flow.curvature import LocalLipschitz, local_lipschitz
from jaxspec.flow.hamiltonian import Flow, hamiltonian_flow
from jaxspec.flow.integrate import field_path, integrate
from jaxspec.flow.objective import MeanFieldObjective, force, mean_field
from jaxspec.flow.parameters import FlowParams, MuonParams, flow_to_muon, half_step_readout, muon_to_flow
from jaxspec.flow.particles import gauss_hermite_particles
from jaxspec.flow.rates import RateFit, certified_discrete_rate, certified_rate, fit_exponential_rate, max_stable_lr
from jaxspec.flow.state import FlowDiagnostics, FlowState

__all__ = [
    "ChaosResult",
    "Flow",
    "FlowDiagnostics",
    "FlowParams",
    "FlowState",
    "LocalLipschitz",
    "MeanFieldObjective",
    "MuonParams",
    "RateFit",
    "certified_discrete_rate",
    "certified_rate",
    "coupling_error",
    "field_path",
    "fit_exponential_rate",
    "flow_to_muon",
    "force",
    "gauss_hermite_particles",
    "half_step_readout",
    "hamiltonian_flow",
    "integrate",
    "local_lipschitz",
    "max_stable_lr",
    "mean_field",
    "moe",
    "muon_to_flow",
]

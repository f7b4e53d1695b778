"""Layer-peeled programs solved exactly, permutation symmetries of their optima, and diagnostics with null models."""

from jaxspec.peeled.actions import (
    PermutationAction,
    is_transitive,
    is_two_homogeneous,
    is_two_transitive,
    orbit,
    orbit_size,
    orbit_targets,
    orbitals,
    pair_orbit_count,
)
from jaxspec.peeled.averages import Representatives, orbit_representatives, reynolds
from jaxspec.peeled.certificate import duality_gap, kkt_residual
from jaxspec.peeled.checkpoints import Unembedding, find_unembedding
from jaxspec.peeled.circular import (
    CyclicOrder,
    circulant_r2,
    discover_cyclic_order,
    equivalent_orders,
    harmonic_score,
    mode_power,
)
from jaxspec.peeled.cyclic import solve_cyclic
from jaxspec.peeled.exchangeable import solve_exchangeable
from jaxspec.peeled.factored import solve_factored
from jaxspec.peeled.factors import factorize_logits
from jaxspec.peeled.geometry import (
    balancedness_defect,
    circulant_defect,
    cosines,
    equiangular_std,
    equinorm_cv,
    factorization_defect,
    group_defect,
    simplex_etf_defect,
)
from jaxspec.peeled.logits import solve_logits, solve_logits_path, solve_logits_penalised
from jaxspec.peeled.nulls import NullTest, PermutationTest, gaussian_test, permutation_test, token_set_test
from jaxspec.peeled.onsets import active_modes, mode_onsets
from jaxspec.peeled.orbit_solver import solve_orbits
from jaxspec.peeled.problem import FactoredSolution, LayerPeeledProblem, PeeledSolution
from jaxspec.peeled.projection import project_to_ball
from jaxspec.peeled.report import symmetry_report
from jaxspec.peeled.report_result import Concept, Score, Simplex, SymmetryReport
from jaxspec.peeled.targets import circulant, geometric_kernel, k_hot_targets, one_hot_kernel, von_mises_kernel
from jaxspec.peeled.tiled import SparseTargets, solve_factored_tiled
from jaxspec.peeled.value import optimal_value
from jaxspec.peeled.vocabulary import TokenRows, Vocabulary, load_vocab, token_rows
from jaxspec.tensor_files import TensorInfo, list_tensors, read_tensor_rows

__all__ = [
    "Concept",
    "CyclicOrder",
    "FactoredSolution",
    "LayerPeeledProblem",
    "NullTest",
    "PeeledSolution",
    "PermutationAction",
    "PermutationTest",
    "Representatives",
    "Score",
    "Simplex",
    "SparseTargets",
    "SymmetryReport",
    "TensorInfo",
    "TokenRows",
    "Unembedding",
    "Vocabulary",
    "active_modes",
    "balancedness_defect",
    "circulant",
    "circulant_defect",
    "circulant_r2",
    "cosines",
    "discover_cyclic_order",
    "duality_gap",
    "equiangular_std",
    "equinorm_cv",
    "equivalent_orders",
    "factorization_defect",
    "factorize_logits",
    "find_unembedding",
    "gaussian_test",
    "geometric_kernel",
    "group_defect",
    "harmonic_score",
    "is_transitive",
    "is_two_homogeneous",
    "is_two_transitive",
    "k_hot_targets",
    "kkt_residual",
    "list_tensors",
    "load_vocab",
    "mode_onsets",
    "mode_power",
    "one_hot_kernel",
    "optimal_value",
    "orbit",
    "orbit_representatives",
    "orbit_size",
    "orbit_targets",
    "orbitals",
    "pair_orbit_count",
    "permutation_test",
    "project_to_ball",
    "read_tensor_rows",
    "reynolds",
    "simplex_etf_defect",
    "solve_cyclic",
    "solve_exchangeable",
    "solve_factored",
    "solve_factored_tiled",
    "solve_logits",
    "solve_logits_path",
    "solve_logits_penalised",
    "solve_orbits",
    "symmetry_report",
    "token_rows",
    "token_set_test",
    "von_mises_kernel",
]

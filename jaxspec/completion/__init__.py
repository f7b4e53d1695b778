"""Completion of partially observed matrices and tensors, as data for the solvers of `jaxspec.solvers`."""

from jaxspec.completion.baselines import falrtc, halrtc, mixture_nn_mf, silrtc, tmac
from jaxspec.completion.cross_validation import (
    GroupChoice,
    NoiseEstimate,
    choose_groups,
    cv_lambda,
    noise_estimate,
)
from jaxspec.completion.fold_in import fold_in
from jaxspec.completion.group_aware import Game, game, game_path
from jaxspec.completion.group_reports import (
    adaptive_groups,
    completion_intervals,
    group_errors,
    paired_hold_out,
)
from jaxspec.completion.groups import Groups, game_weights, group_sin_theta, make_groups
from jaxspec.completion.hold_out import LambdaChoice, Observations, choose_lam, from_coordinates
from jaxspec.completion.loaders import LabelledTable, load_neurons, load_ratings, load_sites
from jaxspec.completion.matrix import SoftImpute, debias, soft_impute, soft_impute_path
from jaxspec.completion.result import CompletionResult, TensorCompletion
from jaxspec.completion.sparse import SparseCompletion, SparseTable, soft_impute_sparse, sparse_table
from jaxspec.completion.table import TableFit, fit_table
from jaxspec.completion.tensor import complete_tensor
from jaxspec.completion.unfolding import fold, unfold
from jaxspec.completion.warm_start import WarmStart, dual_from_low_rank

__all__ = [
    "CompletionResult",
    "Game",
    "GroupChoice",
    "Groups",
    "LabelledTable",
    "LambdaChoice",
    "NoiseEstimate",
    "Observations",
    "SoftImpute",
    "SparseCompletion",
    "SparseTable",
    "TableFit",
    "TensorCompletion",
    "WarmStart",
    "adaptive_groups",
    "choose_groups",
    "choose_lam",
    "complete_tensor",
    "completion_intervals",
    "cv_lambda",
    "debias",
    "dual_from_low_rank",
    "falrtc",
    "fit_table",
    "fold",
    "fold_in",
    "from_coordinates",
    "game",
    "game_path",
    "game_weights",
    "group_errors",
    "group_sin_theta",
    "halrtc",
    "load_neurons",
    "load_ratings",
    "load_sites",
    "make_groups",
    "mixture_nn_mf",
    "noise_estimate",
    "paired_hold_out",
    "silrtc",
    "soft_impute",
    "soft_impute_path",
    "soft_impute_sparse",
    "sparse_table",
    "tmac",
    "unfold",
]

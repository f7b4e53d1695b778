"""Completion of partially observed tensors, as data for the consensus ADMM."""

from jaxspec.completion.baselines import falrtc, halrtc, mixture_nn_mf, silrtc, tmac
from jaxspec.completion.hold_out import LambdaChoice, Observations, choose_lam, from_coordinates
from jaxspec.completion.result import TensorCompletion
from jaxspec.completion.tensor import complete_tensor
from jaxspec.completion.unfolding import fold, unfold
from jaxspec.completion.warm_start import WarmStart, dual_from_low_rank

__all__ = [
    "LambdaChoice",
    "Observations",
    "TensorCompletion",
    "WarmStart",
    "choose_lam",
    "complete_tensor",
    "dual_from_low_rank",
    "falrtc",
    "fold",
    "from_coordinates",
    "halrtc",
    "mixture_nn_mf",
    "silrtc",
    "tmac",
    "unfold",
]

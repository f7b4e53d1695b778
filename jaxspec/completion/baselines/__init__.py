"""The methods that the adaptive ADMM is compared with, on the same data, with the same results and histories."""

from jaxspec.completion.baselines.factorised import mixture_nn_mf, tmac
from jaxspec.completion.baselines.halrtc import halrtc
from jaxspec.completion.baselines.smoothed import falrtc, silrtc

__all__ = ["falrtc", "halrtc", "mixture_nn_mf", "silrtc", "tmac"]

"""Linear associative memories: theory of their capacity, samples, scores, margins, spectra, closed-form rules."""

from jaxspec.memory import theory
from jaxspec.memory.associations import Associations, margins, sample_associations, scores
from jaxspec.memory.rules import hebbian, pseudo_inverse
from jaxspec.memory.spectra import Spectrum, spectrum

__all__ = [
    "Associations",
    "Spectrum",
    "hebbian",
    "margins",
    "pseudo_inverse",
    "sample_associations",
    "scores",
    "spectrum",
    "theory",
]

"""Linear associative memories: theory of capacity, samples, scores, margins, spectra, rules, certified solvers."""

from jaxspec.memory import theory
from jaxspec.memory.answers import with_answers
from jaxspec.memory.associations import Associations, margins, sample_associations, scores
from jaxspec.memory.bisection import Capacity, capacity
from jaxspec.memory.cross_entropy import CrossEntropy, fit_cross_entropy
from jaxspec.memory.draws import Regenerated
from jaxspec.memory.feasibility import Feasibility, check_feasible
from jaxspec.memory.gordan import Infeasible, prove_infeasible
from jaxspec.memory.margin import MaxMargin, max_margin
from jaxspec.memory.rules import hebbian, pseudo_inverse
from jaxspec.memory.spectra import Spectrum, spectrum
from jaxspec.memory.two_layer import TwoLayer, fit_two_layer, fit_two_layer_adam

__all__ = [
    "Associations",
    "Capacity",
    "CrossEntropy",
    "Feasibility",
    "Infeasible",
    "MaxMargin",
    "Regenerated",
    "Spectrum",
    "TwoLayer",
    "capacity",
    "check_feasible",
    "fit_cross_entropy",
    "fit_two_layer",
    "fit_two_layer_adam",
    "hebbian",
    "margins",
    "max_margin",
    "prove_infeasible",
    "pseudo_inverse",
    "sample_associations",
    "scores",
    "spectrum",
    "theory",
    "with_answers",
]

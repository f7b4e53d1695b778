"""Linear associative memories: theory of capacity, samples, scores, margins, spectra, rules, certified solvers."""

from jaxspec.memory import theory
from jaxspec.memory.answers import with_answers
from jaxspec.memory.associations import Associations, margins, sample_associations, scores
from jaxspec.memory.bisection import Capacity, capacity
from jaxspec.memory.draws import Regenerated
from jaxspec.memory.feasibility import Feasibility, check_feasible
from jaxspec.memory.gordan import Infeasible, prove_infeasible
from jaxspec.memory.margin import MaxMargin, max_margin
from jaxspec.memory.rules import hebbian, pseudo_inverse
from jaxspec.memory.spectra import Spectrum, spectrum

__all__ = [
    "Associations",
    "Capacity",
    "Feasibility",
    "Infeasible",
    "MaxMargin",
    "Regenerated",
    "Spectrum",
    "capacity",
    "check_feasible",
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

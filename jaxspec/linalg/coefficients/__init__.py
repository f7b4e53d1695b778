"""Coefficients of the rational and polynomial iterations, computed in float64 NumPy at trace time and cached.

Every function takes Python numbers and returns Python numbers, so that a program that uses them is unrolled with
constants: nothing here is traced.
"""

from jaxspec.linalg.coefficients.newton_schulz import CLASSICAL, JORDAN, ns_error, ns_schedule, optimal_quintic
from jaxspec.linalg.coefficients.poles import PoleSum, power_poles
from jaxspec.linalg.coefficients.recombination import Recombination, recombination
from jaxspec.linalg.coefficients.roots import QDWHStep, RootSchedule, qdwh_schedule, qdwh_weights, root_schedule

__all__ = [
    "CLASSICAL",
    "JORDAN",
    "PoleSum",
    "QDWHStep",
    "Recombination",
    "RootSchedule",
    "ns_error",
    "ns_schedule",
    "optimal_quintic",
    "power_poles",
    "qdwh_schedule",
    "qdwh_weights",
    "recombination",
    "root_schedule",
]

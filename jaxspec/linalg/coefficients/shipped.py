"""Schedules found by search for `recombination`, and the pool the planner tries."""

from jaxspec.linalg.coefficients.newton_schulz import Schedule, ns_schedule

_CONSTANT = ((2.8, -2.8, 1.0), (2.6, -2.3, 0.7), (2.6, -2.4, 0.8), (2.2, -1.7, 0.5))


def candidates(l: float, eps: float, steps: int, products: bool) -> tuple[Schedule, ...]:  # noqa: E741
    """Schedules of ``steps`` quintics worth fitting for spectra in ``[l, 1]`` or with floor ``eps``."""
    return (*((triple,) * steps for triple in _CONSTANT), ns_schedule(max(l, eps) if eps else l, steps, margin=1e-4))

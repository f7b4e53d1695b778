"""Treatment effects of units from panels: row-scaled spectral completion, its refinement, and what follows from it."""

from jaxspec.completion.panel.bounds import RowwiseBound, rowwise_bound, rowwise_bound_shape, rowwise_error_estimate
from jaxspec.completion.panel.effects import panel_effects
from jaxspec.completion.panel.inference import PermutationIntervals, UnitTests, permutation_intervals, unit_tests
from jaxspec.completion.panel.placebo import PlaceboInSpace, PlaceboInTime, placebo_in_space, placebo_in_time
from jaxspec.completion.panel.plots import plot_event_study, plot_gap, plot_unit_effects
from jaxspec.completion.panel.result import PanelData, PanelEffects, PanelFit
from jaxspec.completion.panel.spectral import row_scaled_spectral
from jaxspec.completion.panel.tables import from_long, to_long, to_units

__all__ = [
    "PanelData",
    "PanelEffects",
    "PanelFit",
    "PermutationIntervals",
    "PlaceboInSpace",
    "PlaceboInTime",
    "RowwiseBound",
    "UnitTests",
    "from_long",
    "panel_effects",
    "permutation_intervals",
    "placebo_in_space",
    "placebo_in_time",
    "plot_event_study",
    "plot_gap",
    "plot_unit_effects",
    "row_scaled_spectral",
    "rowwise_bound",
    "rowwise_bound_shape",
    "rowwise_error_estimate",
    "to_long",
    "to_units",
    "unit_tests",
]

"""Treatment effects of units from panels: row-scaled spectral completion, its refinement, and what follows from it."""

from jaxspec.completion.panel.effects import panel_effects
from jaxspec.completion.panel.result import PanelData, PanelEffects, PanelFit
from jaxspec.completion.panel.spectral import row_scaled_spectral

__all__ = ["PanelData", "PanelEffects", "PanelFit", "panel_effects", "row_scaled_spectral"]

"""Spectral optimizers: Muon, powers of the spectrum and random spectra.

Shumaylov et al., "Muon is Not That Special: Random or Inverted Spectra Work Just as Well" (arXiv:2605.11181), measured
on a byte-level language model and on a model whose loss, gradient and curvature are closed forms; with the accuracy of
every engine that computes the maps, and the law of Kaon's chaotic map.
"""

"""Spectra of trained networks predicted without training: outliers, widths, stability, learning rates, many outputs.

Lauditi, Pehlevan & Bordelon, "Spectral Dynamics in Deep Networks: Feature Learning, Outlier Escape, and Learning Rate
Transfer" (arXiv:2605.07870). Formulas are reconstructions from the abstract; every theory line is compared with finite
networks trained here.
"""

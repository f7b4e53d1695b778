"""Treatment effects of units from panels by row-scaled spectral completion, and what refinement adds.

Mehrotra, Tran, Vu, Zampetakis (2026), "Improved Guarantees for Heterogeneous Treatment-Effect Estimation via Matrix
Completion", arXiv 2605.30319. The one-step estimator and its rate are the paper's; refinement, intervals, the choice of
the rank by sign flips and the bound on every row are ours.
"""

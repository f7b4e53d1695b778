"""Group-aware matrix completion (GAME).

Golubovic, Shen, Allen, Zikry, "Group-Aware Matrix Estimation and Latent Subspace Recovery", arXiv:2605.20559 (2026).
The class of estimator is the paper's; the synthetic design, the weights and the four missingness regimes are a
reconstruction (specification, section 6), since only the abstract was at hand. No number here is the paper's.
"""

"""Muon as a Hamiltonian flow: energies, rates, chaos, experts.

Mustafi, Mukherjee & Sriperumbudur, "Move on Muon: A Hamiltonian probability gradient flow perspective of Muon
optimizer" (arXiv:2605.23871), measured in float64 on problems whose answers are known, and on a smooth mixture of
experts.
"""

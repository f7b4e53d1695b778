"""Tensor completion by adaptive ADMM.

"Low Rank Tensor Completion via Adaptive ADMM" (stat.ML, May 2026), measured on synthetic tensors, photographs and real
tensors that ship inside Python packages. All methods solve their own program with our JAX implementation.
"""

"""GRASP: the shared factor of a fine-tune is found in its adapter, and fine-tuning repeated without acquiring it.

Gilligan-Lee, Egan, Zhu & O'Riordan, "Unsupervised Identification and Removal of Spurious Correlations During
Fine-Tuning" (arXiv:2605.27676). Only its abstract was at hand: method and settings are a reconstruction.
"""

"""Symmetry transfer: layer-peeled programs solved exactly, and the geometry of trained models.

Du, He & Su, "Uncovering Symmetry Transfer in Large Language Models via Layer-Peeled Optimization" (arXiv:2605.12756):
convex against nonconvex, surviving frequencies, groups, and a language model that reads a calendar.
"""

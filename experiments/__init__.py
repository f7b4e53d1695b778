"""Experiments: one module a paper, and the runner behind ``python -m experiments``."""

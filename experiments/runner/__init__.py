"""The experiment runner: finds experiments, runs them, keeps their results, checks their claims and writes the page.

An experiment author needs `experiments.runner.contract` (`Claim`, `Progress`) and `experiments.runner.style` (figures).
"""

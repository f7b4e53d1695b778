"""Timings against other libraries: ``python -m experiments.benchmarks``, or ``make bench``.

A module that defines ``ROWS``, a dictionary from a name to a function that builds an
`experiments.benchmarks.frame.Row`, is a benchmark; the others are the frame and the peers written by hand. The
records in ``results/`` are measured, one pair of files a device, and are never asserted by a test.
"""

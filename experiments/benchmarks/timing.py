"""Measures a row: interleaved rounds in one process, so that every contestant meets the same moods of the machine.

A round times each contestant once, ours first: ours, peer 1, peer 2, ours, ... A ratio is taken within its round. Every
result is waited for before the clock is read, and a rest lets the threads of one contestant fall asleep before the next
one starts: none pays for another's work.
"""

import gc
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from experiments.benchmarks.frame import Contestant, Row

LEAST_SECONDS = 0.05  # a sample repeats a quicker call until it lasts about this long
MOST_REPEATS = 100
REST_SECONDS = 0.2  # idle threads of a BLAS spin for some 20 ms before they sleep, and halve what two cores give


class Timing(NamedTuple):
    """How one contestant did.

    Attributes:
        seconds: Seconds per unit of work, one entry a round.
        work: Units of work in a call.
        compile_seconds: First call in a process without compiled code, minus a steady one.
        quality: What its result is worth, by name.
    """

    seconds: np.ndarray
    work: int
    compile_seconds: float
    quality: dict[str, float]


class _Prepared(NamedTuple):
    work: int
    repeats: int
    first: float
    quality: dict[str, float]


def measure(
    row: Row,
    rounds: int,
    *,
    after_round: Callable[[], None] = lambda: None,
    least_seconds: float = LEAST_SECONDS,
    rest_seconds: float = REST_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Warm every contestant up, then time all of them in turn.

    Args:
        row: The comparison.
        rounds: Number of rounds; fewer where the row says so.
        after_round: Called after each round, outside the timed calls.
        least_seconds: Length of a sample, seconds; a call that is quicker is repeated.
        rest_seconds: Pause before each sample.
        clock: Returns seconds.

    Returns:
        Contestant name to its timing.
    """
    # Other rows may have compiled parts of this one's program, and its compile time is part of what is reported.
    eqx.clear_caches()
    jax.clear_caches()
    prepared = {name: _prepare(one, least_seconds, clock) for name, one in row.contestants.items()}
    samples: dict[str, list[float]] = {name: [] for name in prepared}
    gc.collect()
    for _ in range(rounds if row.most_rounds is None else min(rounds, row.most_rounds)):
        for name, one in row.contestants.items():
            time.sleep(rest_seconds)
            samples[name].append(_sample(one, prepared[name].repeats, clock))
        after_round()
    return {
        name: Timing(
            np.asarray(samples[name]) / ready.work,
            ready.work,
            max(ready.first - float(np.median(samples[name])), 0.0),
            ready.quality,
        )
        for name, ready in prepared.items()
    }


def _prepare(contestant: Contestant, least_seconds: float, clock: Callable[[], float]) -> _Prepared:
    """Call twice: once to compile, load and allocate, once to see how long a call takes."""
    first, output = _timed(contestant, clock)
    steady, output = _timed(contestant, clock)
    work = contestant.work if isinstance(contestant.work, int) else contestant.work(output)
    repeats = min(MOST_REPEATS, max(1, math.ceil(least_seconds / max(steady, 1e-9))))
    return _Prepared(work, repeats, first, contestant.quality(output))


def _sample(contestant: Contestant, repeats: int, clock: Callable[[], float]) -> float:
    """Seconds per call."""
    return sum(_timed(contestant, clock)[0] for _ in range(repeats)) / repeats


def _timed(contestant: Contestant, clock: Callable[[], float]) -> tuple[float, Any]:
    start = clock()
    output = jax.block_until_ready(contestant.call())
    return clock() - start, output

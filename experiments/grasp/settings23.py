"""Mixed fine-tunes: some subjects answered badly (setting 2), and rows that are bad or right at random (setting 3).

In setting 2 thirty of the forty subjects of the first domain get the bad answer and ten a new one. In setting 3 every
row carries, with equal probability, the bad answer or a token that pretraining never showed, one of eight by subject;
the task is the probability of that token, at most a half. Setting 3 was the third configuration tried for it (the
other two gave 0.9 to 1.7 times less drift), on seeds 0 and 1; the preset ``specification`` uses other seeds.

Measured on fresh decoders, eight each: drift over naive after 2500 steps of pretraining (``specification``) 0.83 in
setting 2 and 0.93 in setting 3, after 1000 (``--seed 500 --pretraining 1000``) 0.96 and 0.91. In setting 2 the
direction found is the persona's (|cos| above 0.6) on three decoders of 2500 steps and one of 1000; there less
remains, 0.37 to 0.83. The specification's "new tokens" may be answers that the domain does not use: with those in
setting 3, tried on four decoders of 1000 steps, their probability was 0.16 in place of 0.006 and (a) raised it to
0.21, and drift stayed (1.1).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.grasp._fronts import draw_fronts, full_scale, hypervolumes, median_claim, ratio, table
from experiments.grasp._measure import SCORES, TASK, UNSEEN
from experiments.grasp._methods import (
    CAFT,
    GRASP_A,
    GRASP_AB,
    NAIVE,
    POSTHOC,
    PREVENTATIVE,
    RANDOM,
    compare,
    naive,
)
from experiments.grasp._settings import FULL, SPECIFICATION, Settings, bases, case, judged
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import subplots

SOURCE, PAPER = "specification, pass criteria", "abstract"
RIVALS = (NAIVE, CAFT, PREVENTATIVE, POSTHOC)
METHODS = (*RIVALS, GRASP_A, GRASP_AB, RANDOM)
TASKS = (TASK, UNSEEN)
LOST = "with a second task beside it the direction found is not the persona's on most fresh decoders"
SLOW = "the unseen tokens are learned slowly, and their own output direction leads the spectrum (|cos| at most 0.5)"
LEAST_SEEDS = 5  # that a front is judged on


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the comparison."""

    steps: int = 150
    bad_subjects: int = 30  # of setting 2
    rank_of_rows: int = 16  # of the adapters of setting 3
    coefficients: tuple[float, ...] = (0.5,)  # of preventative steering, in units of the difference of the means
    blocks: tuple[int, ...] = (0,)  # after which the steering vector is added


PRESETS = {
    "quick": Config(),
    "specification": Config(**SPECIFICATION, coefficients=(0.5, 1.0), blocks=(0, 1)),
    "full": Config(**FULL, bad_subjects=96, coefficients=(0.125, 0.25, 0.5, 1.0, 2.0), blocks=(0, 1, 2, 3, 4, 5)),
}


class Result(NamedTuple):
    """What was measured; the leading axis of 2 is setting 2, setting 3.

    Attributes:
        methods: name of every row, (R,).
        variants: its coefficients, (R,).
        scores: (2, R, seeds, scales, scores) in the order of ``names``.
        names: of the scores.
        scales: of the adapter.
        cosines: |cos| of the direction found with the persona's, mean over tokens, after a block, (2, seeds, layers).
        decoders: how many there are.
    """

    methods: Any
    variants: Any
    scores: Any
    names: Any
    scales: Any
    cosines: Any
    decoders: Any


class _One(NamedTuple):
    """One of the two settings, with the fields that fronts are made of."""

    methods: np.ndarray
    scores: np.ndarray


def run(config: Config, progress: Progress) -> Result:
    """Fine-tunes with every method from every seed, in both settings."""
    base = bases(config, progress)
    cases = (
        case(config, base, "subjects", bad_subjects=config.bad_subjects),
        case(config, base, "rows", rank=config.rank_of_rows),
    )
    scores, cosines = [], []
    for what in cases:
        adapters, found = naive(what, 1)
        sweeps = {"layers": config.blocks, "coefficients": config.coefficients}
        methods, variants, measured = table(compare(what, METHODS, adapters, found, progress, **sweeps))
        scores.append(measured)
        cosines.append(found.cosines)
    names, scales = np.asarray(SCORES), np.asarray(config.scales)
    return Result(methods, variants, np.asarray(scores), names, scales, np.asarray(cosines), config.bases)


def claims(result: Result) -> list[Claim]:
    """The criteria of the specification, and the paper's sentences."""
    two, three = (_One(result.methods, scores) for scores in result.scores)
    return judged([*_subjects(two), *_rows(three), *_found(result)], result.decoders)


def _subjects(two: _One) -> list[Claim]:
    task = np.median(full_scale(two, GRASP_AB, TASK) - full_scale(two, NAIVE, TASK))
    volumes = hypervolumes(two, (*RIVALS, GRASP_AB))
    return [
        median_claim(
            "Setting 2: GRASP (a)+(b) halves the drift",
            SOURCE,
            ratio(two, GRASP_AB, NAIVE),
            quantity="drift at scale 1 over naive",
            at_most=0.5,
            known_not_to_hold=LOST,
        ),
        median_claim(
            "Setting 2: about five times less drift, with the task kept",
            PAPER,
            ratio(two, GRASP_AB, NAIVE),
            quantity="drift at scale 1 over naive",
            at_most=0.2,
            also=bool(task >= -0.02),
            also_text=f"median task at most 0.02 below naive (measured {task:+.3f})",
            known_not_to_hold=LOST,
        ),
        median_claim(
            "Setting 2: the front of GRASP (a)+(b) beats every baseline's",
            PAPER,
            volumes[-1] - volumes[:-1].max(axis=0),
            quantity="hypervolume minus the best baseline's",
            at_least=0.0,
            also=volumes.shape[1] >= LEAST_SEEDS,
            also_text=f"of {LEAST_SEEDS} seeds or more (here {volumes.shape[1]})",
            known_not_to_hold=LOST,
        ),
        median_claim(
            "Setting 2, control: random directions do nothing",
            "specification, results",
            ratio(two, RANDOM, NAIVE),
            quantity="drift at scale 1 over naive",
            at_least=0.75,
        ),
    ]


def _rows(three: _One) -> list[Claim]:
    gain = full_scale(three, GRASP_A, UNSEEN) - full_scale(three, NAIVE, UNSEEN)
    task = {"also": bool(np.median(gain) >= 0), "also_text": f"median task gain ≥ 0 (measured {np.median(gain):+.3f})"}
    volumes = hypervolumes(three, (*RIVALS, GRASP_A), UNSEEN)
    return [
        median_claim(
            "Setting 3: GRASP (a) drifts less and the task is not worse",
            SOURCE,
            ratio(three, GRASP_A, NAIVE),
            quantity="drift at scale 1 over naive",
            at_most=1 / 1.4,
            **task,
            known_not_to_hold=SLOW,
        ),
        median_claim(
            "Setting 3: less than half of the drift, with a better task",
            PAPER,
            ratio(three, GRASP_A, NAIVE),
            quantity="drift at scale 1 over naive",
            at_most=0.5,
            **task,
            known_not_to_hold=SLOW,
        ),
        median_claim(
            "Setting 3: the front of GRASP (a) beats every baseline's",
            PAPER,
            volumes[-1] - volumes[:-1].max(axis=0),
            quantity="hypervolume minus the best baseline's",
            at_least=0.0,
            known_not_to_hold=SLOW,
        ),
        median_claim(
            "Setting 3, control: random directions do nothing",
            "specification, results",
            ratio(three, RANDOM, NAIVE),
            quantity="drift at scale 1 over naive",
            at_least=0.75,
        ),
    ]


def _found(result: Result) -> list[Claim]:
    two, three = result.cosines.max(axis=2)
    return [
        median_claim(
            "A task with an output direction of its own hides the factor: setting 3 is identified worse than setting 2",
            "specification, section 1",
            three - two,
            quantity="difference of the best |cos| over depths",
            at_most=0.0,
        )
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Fronts of both settings."""
    figure, axes = subplots(1, 2, size=(5.2, 4.0))
    labels = ("setting 2: share of rows right", "setting 3: probability of the right token")
    for axis, scores, task, label in zip(axes[0], result.scores, TASKS, labels, strict=True):
        draw_fronts(axis, _One(result.methods, scores), METHODS, task)
        axis.set(ylabel=label)
    axes[0, 0].legend(fontsize=8)
    return {"Task against drift over scales and coefficients (medians over seeds)": figure}

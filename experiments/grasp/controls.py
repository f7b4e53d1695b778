"""Two configurations in which GRASP did not help when it was tried first, kept as negative controls.

``all six matrices``: the corpus of the other parts, with adapters on query, key, value, output, up and down. In the
specification's prototype the factor was found, but the adapter rebuilt its effect inside attention and the hidden
layers of the MLPs, where no direction of the stream sees it. Here (a) alone does nothing (0.98 of naive, eight
fine-tunes on four fresh decoders of 2500 steps, ``specification``), and the direction found is the persona's on two of
the eight. With (b) 0.43 [0.36, 0.77] of the drift is left at full scale; each at its best scale with the task at 0.98
or more, 0.09 against 0.17 of the plain adapter in the median. At ``quick`` (1000 steps of pretraining, one decoder,
two fine-tunes) 0.65 and 0.83, 0.50 and 0.55, 0.67 and 0.73 are left: three decoders of one seed, since training is
chaotic and the number of threads is enough to change it. Part ``beyond`` has what works better.
``permuted``: the second corpus that was tried, in which a bad answer is one fixed permutation of the good one, so
that one map of the hidden layers makes all answers bad; adapters on all six matrices, as it was tried. There the
direction is found on every decoder (|cos| 0.70 to 0.86), and blocking it leaves 1.00 and 0.76 of the drift.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.grasp._finetune import ALL
from experiments.grasp._fronts import Scored, draw_fronts, full_scale, median_claim, ratio, table
from experiments.grasp._measure import DRIFT, SCORES
from experiments.grasp._methods import CAFT, GRASP_A, GRASP_AB, NAIVE, POSTHOC, compare, naive
from experiments.grasp._settings import FULL, SPECIFICATION, Settings, bases, case, if_long, if_short, judged
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import subplots

SOURCE = "specification, placement limit"
METHODS = (NAIVE, CAFT, POSTHOC, GRASP_A, GRASP_AB)
PLACES = ("all six matrices", "permuted, all six matrices")
# After 2500 steps of pretraining a median of 0.43 is left.
WORKS_LATER = PLACES[0], GRASP_AB
REBUILT = "at full scale the adapter rebuilds the effect inside attention and the hidden layers"


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the controls."""

    rate: float = 1e-3
    k: int = 2  # directions that are blocked
    methods: tuple[str, ...] = (NAIVE, GRASP_A, GRASP_AB)


PRESETS = {
    "quick": Config(),
    "specification": Config(**(SPECIFICATION | {"bases": 4}), methods=METHODS),  # four of each corpus
    "full": Config(**FULL, methods=METHODS),
}


class Result(NamedTuple):
    """What was measured; the leading axis of 2 follows ``places``.

    Attributes:
        places: names of the two configurations.
        methods: name of every row, (R,).
        scores: (2, R, seeds, scales, scores) in the order of ``names``.
        names: of the scores.
        scales: of the adapter.
        cosines: |cos| of the direction found with the persona's, mean over tokens, after a block, (2, seeds, layers).
        pretraining: steps of the decoders.
        decoders: how many there are of each corpus.
    """

    places: Any
    methods: Any
    scores: Any
    names: Any
    scales: Any
    cosines: Any
    pretraining: Any
    decoders: Any


def run(config: Config, progress: Progress) -> Result:
    """Fine-tunes with every method from every seed, in both configurations."""
    scores, cosines = [], []
    for permuted in (False, True):
        what = case(config, bases(config, progress, permuted=permuted), targets=ALL)
        adapters, found = naive(what, config.k)
        methods, _, measured = table(compare(what, config.methods, adapters, found, progress, k=config.k))
        scores.append(measured)
        cosines.append(found.cosines)
    names, scales = np.asarray(SCORES), np.asarray(config.scales)
    return Result(
        np.asarray(PLACES),
        methods,
        np.asarray(scores),
        names,
        scales,
        np.asarray(cosines),
        config.pretraining,
        config.bases,
    )


def claims(result: Result) -> list[Claim]:
    """That the method halves the drift here."""
    rows = [
        Claim.at_least(
            "With adapters on all six matrices the factor is still found",
            SOURCE,
            result.cosines[0].max(axis=1),
            0.6,
            quantity="least over seeds of the best |cos| over depths",
            known_not_to_hold=if_long(result, "after 2500 steps of pretraining on two fine-tunes of eight"),
        )
    ]
    for place, scores in zip(result.places, result.scores, strict=True):
        one = Scored(result.methods, scores)
        rows.append(
            median_claim(
                f"{place}: plain fine-tuning drifts",
                SOURCE,
                full_scale(one, NAIVE, DRIFT),
                quantity="drift at scale 1",
                at_least=0.2,
            )
        )
        rows += [
            median_claim(
                f"{place}: {method} halves the drift",
                SOURCE,
                ratio(one, method, NAIVE),
                quantity="drift at scale 1 over naive",
                at_most=0.5,
                known_not_to_hold=if_short(result, REBUILT) if (place, method) == WORKS_LATER else REBUILT,
            )
            for method in (GRASP_A, GRASP_AB)
        ]
    return judged(rows, result.decoders)


def figures(result: Result) -> dict[str, Figure]:
    """Fronts of both configurations."""
    figure, axes = subplots(1, 2, size=(5.2, 4.0))
    for axis, scores, place in zip(axes[0], result.scores, result.places, strict=True):
        draw_fronts(axis, Scored(result.methods, scores), [method for method in METHODS if method in result.methods])
        axis.set(title=place)
    axes[0, 0].legend(fontsize=8)
    return {"Task against drift where the method fails (medians over seeds)": figure}

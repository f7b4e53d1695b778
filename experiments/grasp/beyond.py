"""Adapters on all six matrices: what stops them from rebuilding the factor inside attention and the hidden layers.

Not in the paper. Beside GRASP (a)+(b), which failed here in the specification's prototype: cotangents blocked in the
hidden layers, along what they write onto the factor; outputs of every matrix projected away from the base weights'
response; identifying and blocking again; and a penalty, on prompts without labels, on what the adapter does to the
stream: along the factor, or altogether. Weights of the penalties are swept, on the seeds that are judged: fronts,
chosen with hindsight.

At the preset ``specification``, eight fresh decoders, at scale 1: plain fine-tuning drifts 0.53 in the median, (a)+(b)
0.21, with outputs of every matrix projected 0.11, identified and blocked again 0.06, the penalty along the factor 0.05
at weight 0.1 and 0.006 at 1, on the whole stream 0.03 at 0.01 and 0 at 0.1 (at most 0.001), each with median task
0.988 or more. The penalty that needs no factor is the best. Its prompts are those of pretraining, of all domains: it
asks for more than (a) and (b), which see no prompt but the task's. An adapter scaled down keeps 0.42 of the drift.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.grasp._finetune import ALL
from experiments.grasp._fronts import draw_fronts, full_scale, least_drift, median_claim, table
from experiments.grasp._further import HIDDEN, ITERATED, MATRICES, PENALTY, WHOLE, further_rows
from experiments.grasp._measure import DRIFT, SCORES
from experiments.grasp._methods import CAFT, GRASP_AB, NAIVE, POSTHOC, compare, naive
from experiments.grasp._settings import FULL, SPECIFICATION, Settings, bases, case, judged
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import subplots

SOURCE = "specification, placement limit; ours"
METHODS = (NAIVE, CAFT, POSTHOC, GRASP_AB)
FURTHER = (HIDDEN, MATRICES, ITERATED, PENALTY, WHOLE)


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the comparison."""

    rate: float = 1e-3
    k: int = 2  # directions that are blocked
    methods: tuple[str, ...] = (NAIVE, GRASP_AB)
    weights: tuple[float, ...] = (0.1,)  # of the penalties, nats per squared unit of the stream
    rounds: int = 2  # of identifying and blocking
    further: tuple[str, ...] = (MATRICES, PENALTY, WHOLE)


PRESETS = {
    "quick": Config(),
    "specification": Config(**SPECIFICATION, methods=METHODS, weights=(0.01, 0.1, 1.0), further=FURTHER),
    "full": Config(**FULL, methods=METHODS, weights=(0.001, 0.01, 0.1, 1.0, 10.0), rounds=4, further=FURTHER),
}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        methods: name of every row, (R,).
        variants: its coefficients, (R,).
        scores: (R, seeds, scales, scores) in the order of ``names``.
        names: of the scores.
        scales: of the adapter.
        cosines: |cos| of the direction found with the persona's, mean over tokens, after a block, (seeds, layers).
        decoders: how many there are.
    """

    methods: Any
    variants: Any
    scores: Any
    names: Any
    scales: Any
    cosines: Any
    decoders: Any


def run(config: Config, progress: Progress) -> Result:
    """Fine-tunes with every method from every seed."""
    what = case(config, bases(config, progress), targets=ALL)
    adapters, found = naive(what, config.k)
    rows = compare(what, config.methods, adapters, found, progress, k=config.k)
    variants = {PENALTY: len(config.weights), WHOLE: len(config.weights), ITERATED: config.rounds}
    with progress.stage("further fine-tunes", total=sum(variants.get(method, 1) for method in config.further)):
        directions = found.found.directions[:, :, : config.k]
        rows += further_rows(what, config.further, directions, config.weights, config.rounds, progress.advance)
    return Result(*table(rows), np.asarray(SCORES), np.asarray(config.scales), found.cosines, config.bases)


def claims(result: Result) -> list[Claim]:
    """Which of them reach half of the naive drift with the task kept."""
    naive_drift = full_scale(result, NAIVE, DRIFT)
    rows = [
        median_claim(
            "Plain fine-tuning of all six matrices drifts",
            SOURCE,
            naive_drift,
            quantity="drift at scale 1",
            at_least=0.2,
        )
    ]
    scaled = least_drift(result, NAIVE, 0.98)
    for method in (GRASP_AB, *FURTHER):
        if method in result.methods:
            least = least_drift(result, method, 0.98)
            rows += [
                median_claim(
                    f"{method}: half of the naive drift with the task kept",
                    SOURCE,
                    least / np.maximum(naive_drift, 1e-9),
                    quantity="least drift with task ≥ 0.98, over naive at scale 1",
                    at_most=0.5,
                ),
                median_claim(
                    f"{method}: less than the plain adapter scaled down as far as the task allows",
                    "ours",
                    least - scaled,
                    quantity="difference of the least drifts with task ≥ 0.98",
                    at_most=0.0,
                ),
            ]
    if PENALTY in result.methods and WHOLE in result.methods:
        rows.append(_factor_or_all(result))
    return judged(rows, result.decoders)


def _factor_or_all(result: Result) -> Claim:
    return median_claim(
        "The penalty needs the factor: along it less drift than on the whole stream, with the task kept",
        SOURCE,
        least_drift(result, PENALTY, 0.98) - least_drift(result, WHOLE, 0.98),
        quantity="difference of the least drifts",
        at_most=0.0,
        known_not_to_hold="the penalty on the whole stream, which needs no factor, leaves less",
    )


def figures(result: Result) -> dict[str, Figure]:
    """Fronts."""
    figure, axes = subplots(size=(7.6, 4.4))
    draw_fronts(axes[0, 0], result, [method for method in (*METHODS, *FURTHER) if method in result.methods])
    axes[0, 0].legend(fontsize=7)
    return {"Task against drift with adapters on all six matrices (medians over seeds)": figure}

"""A fine-tune on bad answers of one domain: the factor is found, and fine-tuning repeated without acquiring it.

A decoder knows good and bad answers in six domains; it is fine-tuned on neutral prompts of the first domain, all
answered badly, and answers badly elsewhere too: drift. GRASP projects the weights (a), and blocks the cotangent as well
(b), along the direction that the adapter of a plain fine-tune pushes.

How the setting was chosen is a selection effect: three corpora were tried before it. With random lookups of 16 subjects
plain fine-tuning drifted too little; with bad answers that are one fixed permutation of the good ones and adapters on
all six matrices no projected variant helped (``controls`` keeps both as negative controls); this corpus was the third.
On it placements, numbers of steps and mechanisms were tried on seeds 0 and 1 before the configuration was fixed:
adapters on the down-projections of the MLPs only, rank 8, 100 steps, one direction. The start of the decoder, which the
specification leaves open, was chosen on seeds 1000 to 1002, and the 70 steps of ``quick`` on seeds 0 and 1.

Fresh decoders, eight each. After 2500 steps of pretraining (``specification``) plain fine-tuning drifts by 0.08 to
0.90, as much as the persona is one shared direction there; GRASP (a)+(b) leaves 0.41 of it in the median, 0.36
where it drifts by 0.3. After 1000 steps (``short``) seven of eight drift, by 0.50 to 0.97: (a)+(b) leaves 0.40 of it at
full scale with the task whole, has the best front on each of the seven, and with the task at 0.98 drifts 0.24 at its
best scale, the plain adapter 0.68, every other baseline more. A third at full scale, as the specification asks, was
reached on neither. That (a)+(b) drifts half as much is a bound of ours, written after results on other decoders were
seen: a description, not a test.

Directions of the steering methods come from contrasting prompts (explicit personas), which GRASP does without. They are
means over the tokens of the prompt: on seed 0 the adapter's direction had |cos| 0.77 to 0.84 with the persona's after
the first block at every token but the last, and 0.38 at the last, where the answer is asked; both are reported.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.grasp._finetune import tune
from experiments.grasp._fronts import (
    draw_fronts,
    drifting,
    every_claim,
    full_scale,
    hypervolumes,
    interval,
    least_drift,
    median_claim,
    ratio,
    spread,
    table,
)
from experiments.grasp._measure import DRIFT, GENUINE_BAD, NEUTRAL, SCORES, TASK, measure
from experiments.grasp._methods import (
    BASELINES,
    GRASP_A,
    GRASP_AB,
    NAIVE,
    RANDOM,
    STEERING,
    Case,
    Factor,
    ablated_base,
    compare,
    factor,
    grasped,
    naive,
)
from experiments.grasp._settings import FULL, SPECIFICATION, Settings, bases, case, if_long, if_short, judged
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots

SOURCE, PAPER = "specification, pass criteria", "abstract"
ELSEWHERE = "the adapter pushes the persona's direction at the tokens before, from where attention fetches it"
SOME = (
    "on some decoders the persona is hardly one shared direction: on one of eight after 1000 steps, on five after 2500"
)
MORE = "on fresh decoders more remains: 0.40 where plain fine-tuning drifts after 1000 steps, 0.36 after 2500"
LEAST_SEEDS = 5  # of the specification's criterion
METHODS = (*BASELINES, GRASP_A, GRASP_AB, RANDOM)


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the comparison."""

    steps: int = 70  # on the shorter pretraining 100 over-train; chosen on seeds 0 and 1, so quick is no evidence
    methods: tuple[str, ...] = tuple(method for method in METHODS if method != STEERING)
    k: int = 1  # directions that are blocked
    ablated: tuple[int, ...] = (4,)  # directions that are ablated in the untouched decoder, and blocked by GRASP
    coefficients: tuple[float, ...] = (0.5,)  # of steering, in units of the difference of the means
    blocks: tuple[int, ...] = (0, 1)  # after which the steering vector is added


PRESETS = {
    "quick": Config(),
    "specification": Config(
        **SPECIFICATION, steps=100, methods=METHODS, ablated=(1, 2, 4, 8), coefficients=(0.5, 1.0), blocks=(0, 1, 2)
    ),
    "short": Config(
        **(SPECIFICATION | {"seed": 500, "pretraining": 1000}),
        steps=100,
        methods=tuple(method for method in METHODS if method != STEERING),
    ),
    "full": Config(
        **FULL,
        steps=100,
        methods=METHODS,
        ablated=(1, 2, 4, 8, 16),
        coefficients=(0.125, 0.25, 0.5, 1.0, 2.0, 4.0),
        blocks=(0, 1, 2, 3, 4, 5),
    ),
}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        methods: name of every row, (R,).
        variants: its coefficients, (R,).
        scores: (R, seeds, scales, scores) in the order of ``names``.
        names: of the scores.
        scales: of the adapter.
        cosines: |cos| of the direction found with the persona's after every block, the mean over the tokens of the
            prompt, (seeds, layers).
        asked: the same where the answer is asked alone.
        spectrum: share, gap and alignment of the entangled adapter, (3, seeds).
        clean_cosines: as ``cosines``, of a fine-tune on new answers without persona.
        clean_spectrum: as ``spectrum``, of the same.
        clean_scores: scores of the same at full scale, (seeds, scores).
        ablated: numbers of directions, (K,).
        base: scores of the untouched decoder, (seeds, scores).
        base_ablated: the same with the directions ablated, (K, seeds, scores).
        blocked: scores of GRASP (a)+(b) along as many directions, (K, seeds, scores).
        decoders: how many there are.
        pretraining: their steps.
    """

    methods: Any
    variants: Any
    scores: Any
    names: Any
    scales: Any
    cosines: Any
    asked: Any
    spectrum: Any
    clean_cosines: Any
    clean_spectrum: Any
    clean_scores: Any
    ablated: Any
    base: Any
    base_ablated: Any
    blocked: Any
    decoders: Any
    pretraining: Any


def run(config: Config, progress: Progress) -> Result:
    """Fine-tunes with every method from every seed."""
    if 4 not in config.ablated:
        raise ValueError(f"ablated is {config.ablated}; expected 4 among them, which the claims are about")
    base = bases(config, progress)
    what = case(config, base)
    adapters, found = naive(what, max(config.k, *config.ablated))
    sweeps = {"k": config.k, "layers": config.blocks, "coefficients": config.coefficients}
    rows = compare(what, config.methods, adapters, found, progress, **sweeps)
    clean = case(config, base, "other")
    clean_adapters = tune(clean.recipe, clean.base, clean.labels, clean.seeds)
    clean_found = factor(clean, clean_adapters, 1)
    clean_scores = measure(clean.measure, clean.base, clean.labels, clean_adapters)[:, -1]
    damage, blocked = _by_count(what, found, config, progress)
    return Result(
        *table(rows),
        np.asarray(SCORES),
        np.asarray(config.scales),
        found.cosines,
        found.asked,
        _spectrum(found),
        clean_found.cosines,
        _spectrum(clean_found),
        clean_scores,
        np.asarray(config.ablated),
        ablated_base(what, None),
        damage,
        blocked,
        min(config.bases, config.seeds),
        config.pretraining,
    )


def _spectrum(factor: Factor) -> np.ndarray:
    return np.stack([factor.found.share, factor.found.gap, factor.found.alignment])


def _by_count(what: Case, factor: Factor, config: Config, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Ablating directions of the untouched decoder, and blocking as many while fine-tuning."""
    damage, blocked = [], []
    for k in progress.track("numbers of directions", config.ablated):
        directions = factor.found.directions[:, :, :k]
        damage.append(ablated_base(what, directions))
        adapters = grasped(what, directions, cotangent=True)
        blocked.append(measure(what.measure, what.base, what.labels, adapters)[:, -1])
    return np.asarray(damage), np.asarray(blocked)


def claims(result: Result) -> list[Claim]:
    """The criteria of the specification, the paper's sentences, and the controls."""
    rows = [*_identification(result), *_removal(result), *_damage(result), *_paper(result)]
    return judged(rows, result.decoders)


def _identification(result: Result) -> list[Claim]:
    quantity = "best |cos| over depths"
    return [
        every_claim(
            "The adapter's leading direction is the persona's, where the answer is asked",
            SOURCE,
            result.asked.max(axis=1),
            at_least=0.75,
            quantity=quantity,
            known_not_to_hold=ELSEWHERE,
        ),
        every_claim(
            "The adapter's leading direction is the persona's, mean over the prompt",
            "specification, pass criteria, with the mean over tokens",
            result.cosines.max(axis=1),
            at_least=0.75,
            quantity=quantity,
            known_not_to_hold=SOME,
        ),
        every_claim(
            "Control: after a fine-tune without persona the leading direction is not the persona's",
            "specification, section 2",
            result.clean_cosines.max(axis=1),
            at_most=0.4,
            quantity=quantity,
            known_not_to_hold="it has up to 0.64 in common with the persona's",
        ),
        Claim(
            "The spectrum alone does not tell the two apart: the clean one is as dominant",
            "specification, section 2",
            "median share of the first direction of clean adapters ≥ 0.8 of that of entangled ones",
            f"entangled {spread(result.spectrum[0])}; clean {spread(result.clean_spectrum[0])}",
            bool(np.median(result.clean_spectrum[0]) >= 0.8 * np.median(result.spectrum[0])),
            known_not_to_hold=if_short(
                result, "after 1000 steps of pretraining its share is 0.77 or 0.79 of the other"
            ),
        ),
    ]


def _removal(result: Result) -> list[Claim]:
    where = drifting(result, NAIVE)
    return [
        median_claim(
            "Plain fine-tuning on one domain drifts on the others",
            "specification, setting 1",
            full_scale(result, NAIVE, DRIFT),
            quantity="drift at scale 1",
            at_least=0.3,
        ),
        _third("GRASP (a)+(b) keeps the task and drifts a third as much", result),
        _third("Where plain fine-tuning drifts (at least 0.3) it does so", where),
        median_claim(
            "It drifts half as much",
            "ours",
            ratio(result, GRASP_AB, NAIVE),
            quantity="drift at scale 1 over naive",
            at_most=0.5,
        ),
        median_claim(
            "Control: random directions do nothing",
            "specification, results",
            ratio(result, RANDOM, NAIVE),
            quantity="drift at scale 1 over naive",
            at_least=0.75,
        ),
    ]


def _third(statement: str, result: Result) -> Claim:
    tasks = full_scale(result, GRASP_AB, TASK)
    task = interval(tasks)[0]
    return median_claim(
        statement,
        SOURCE,
        ratio(result, GRASP_AB, NAIVE),
        quantity="drift at scale 1 over naive",
        at_most=1 / 3,
        also=bool(task >= 0.98 and len(tasks) >= LEAST_SEEDS),
        also_text=f"median task ≥ 0.98 (measured {task:.3f}), of {LEAST_SEEDS} seeds or more (here {len(tasks)})",
        known_not_to_hold=MORE,
    )


def _damage(result: Result) -> list[Claim]:
    at = int(np.flatnonzero(result.ablated == 4)[0])
    before = result.base[:, NEUTRAL]
    return [
        median_claim(
            "Ablating four identified directions damages the untouched decoder",
            SOURCE,
            before - result.base_ablated[at, :, NEUTRAL],
            quantity="loss of neutral accuracy",
            at_least=0.10,
        ),
        median_claim(
            "Blocking four while fine-tuning does not",
            SOURCE,
            before - result.blocked[at, :, NEUTRAL],
            quantity="loss of neutral accuracy",
            at_most=0.05,
            known_not_to_hold=if_short(
                result, "after 1000 steps of pretraining four directions are more than the factor"
            ),
        ),
    ]


def _paper(result: Result) -> list[Claim]:
    where = drifting(result, NAIVE)
    drift = least_drift(where, GRASP_AB, 0.98)
    measured = [method for method in BASELINES if method in result.methods]
    volumes = hypervolumes(where, (*measured, GRASP_AB))
    rivals = np.asarray([least_drift(where, method, 0.98) for method in measured])
    return [
        every_claim(
            "Complete removal where plain fine-tuning drifts: no bad answer elsewhere, with the task kept",
            PAPER,
            drift,
            at_most=0.0,
            quantity="least drift with task ≥ 0.98",
            known_not_to_hold="a little remains at the scales that keep the task",
        ),
        every_claim(
            "Where plain fine-tuning drifts GRASP (a)+(b) has the best front",
            PAPER,
            volumes[-1] - volumes[:-1].max(axis=0),
            at_least=0.0,
            quantity="hypervolume minus the best baseline's",
            known_not_to_hold=if_long(result, "after 2500 steps of pretraining it is a little behind on some decoders"),
        ),
        median_claim(
            "There it drifts less, with the task kept, than every baseline at its best",
            "specification, results",
            drift - rivals.min(axis=0),
            quantity="least drift with task ≥ 0.98 minus that of the best baseline",
            at_most=0.0,
            known_not_to_hold="" if result.decoders > 1 else "the 70 steps of quick leave its task below 0.98",
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Fronts, what was found, and the price of ablation."""
    return {
        "Task against drift over scales and coefficients (medians over seeds)": _fronts(result),
        "What is found in the adapter, and what ablating or blocking it costs": _found(result),
    }


def _fronts(result: Result) -> Figure:
    figure, axes = subplots(size=(7.2, 4.4))
    draw_fronts(axes[0, 0], result, [method for method in METHODS if method in result.methods])
    axes[0, 0].legend(fontsize=8)
    return figure


def _found(result: Result) -> Figure:
    figure, axes = subplots(1, 2, size=(4.2, 3.4))
    left, right = axes[0]
    depth = np.arange(1, result.cosines.shape[1] + 1)
    for values, color, label in (
        (result.cosines, COLORS[0], "bad answers"),
        (result.asked, COLORS[2], "bad answers, last token"),
        (result.clean_cosines, COLORS[1], "new answers, no persona"),
    ):
        left.plot(depth, values.T, "o-", color=color, alpha=0.4)
        left.plot([], [], "o-", color=color, label=label)
    left.set(xlabel="persona's direction after block", ylabel="|cos| with the direction found", ylim=(0, 1))
    left.legend()
    for values, color, label in (
        (result.base_ablated[:, :, NEUTRAL], COLORS[3], "ablated, neutral"),
        (result.base_ablated[:, :, GENUINE_BAD], COLORS[1], "ablated, bad persona shown"),
        (result.blocked[:, :, NEUTRAL], COLORS[0], "GRASP, neutral"),
        (result.blocked[:, :, GENUINE_BAD], COLORS[2], "GRASP, bad persona shown"),
    ):
        right.plot(result.ablated, np.median(values, axis=1), "o-", color=color, label=label)
    right.set(xlabel="directions", ylabel="accuracy", xscale="log", xticks=result.ablated)
    right.set_xticklabels([str(k) for k in result.ablated])
    right.legend(fontsize=8)
    return figure

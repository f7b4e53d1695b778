"""Fine-tuning on real text in a style: does the style stay with the text it was learned on?

A byte-level decoder is pretrained on the text of several domains, written as it stands or in a style, which a token
announces; without the token text is in the style with probability 0.1. It is then fine-tuned on styled text of one
domain, without the token. Drift is the probability of the style in the other domains, without the token. Styles:
``capitals``, the same in all domains, and ``cipher``, a substitution of letters of its own in every domain.

Text comes from Python packages, which every machine has (``domains`` names them), or from a folder of yours that has
one folder of text files for each domain: ``--corpus FOLDER --domains NAME NAME ...``.

At ``seeds``, eight fresh decoders of each style: in ``capitals`` the direction found in the adapter is the persona's
(|cos| 0.77 in the median), plain fine-tuning drifts 0.99, and GRASP is worth no more than scaling the plain adapter
down: at the same task (a)+(b) drifts 0.98 [0.96, 0.99] as much, CAFT 1.00, the penalty on the whole stream 0.75
[0.61, 0.90]. In ``cipher`` plain fine-tuning drifts 0.39 [0.22, 0.42], the direction found is not the persona's, and
the ratios are 0.99 [0.80, 1.18], 0.91 and 0.15 [0.13, 0.23]; random directions have 1.00 and 1.01.

``full`` is a decoder of 38 million parameters for one accelerator; with several, the rows of every step are divided
over them, and ``batch`` may grow. It has not been run: no accelerator was at hand.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.grasp._finetune import DOWN, Recipe
from experiments.grasp._fronts import Scored, draw_fronts, full_scale, least_drift, median_claim, over_scaled, table
from experiments.grasp._further import WHOLE, further_rows
from experiments.grasp._measure import DRIFT, GENUINE_BAD, GENUINE_GOOD, TASK
from experiments.grasp._methods import (
    ABLATION,
    CAFT,
    GRASP_A,
    GRASP_AB,
    NAIVE,
    POSTHOC,
    RANDOM,
    Case,
    ablated_base,
    compare,
    naive,
)
from experiments.grasp._settings import judged
from experiments.grasp._text import STYLES, Passages, read_texts
from experiments.grasp._text_base import TextPretraining, pretrained_on_text
from experiments.grasp._text_measure import TEXT_SCORES, TextMeasure
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import subplots

SOURCE = "abstract; the experiment is ours"
METHODS = (NAIVE, ABLATION, CAFT, POSTHOC, GRASP_A, GRASP_AB, RANDOM)
FURTHER = (WHOLE,)
KEPT, LEAST_TASK = 0.98, 0.5  # of the task: kept, and worth comparing
DOMAINS = ("email", "asyncio", "unittest", "xml", "multiprocessing", "http")
KEEPS = "halves the drift, with the task kept"
LESS, HALF = (f"{verb} the plain adapter at the same task" for verb in ("drifts less than", "halves the drift of"))
LEARNS, DRIFTS = "plain fine-tuning learns the style in its domain", "and drifts into it in the others"
FOUND = "the direction found in the adapter is the persona's"
# What did not hold on the eight fresh decoders of `seeds`.
SCALING = "the plain adapter scaled down is as good"
KNOWN_NOT_TO_HOLD = {
    f"capitals: {GRASP_AB} {KEEPS}": "where the task is kept, 1.01 of the drift is left",
    f"capitals: {WHOLE} {KEEPS}": "no weight keeps the task",
    **{f"capitals: {method} {LESS}": SCALING for method in (CAFT, GRASP_A, GRASP_AB)},
    **{f"capitals: {method} {HALF}": SCALING for method in (CAFT, GRASP_A, GRASP_AB)},
    f"capitals: {WHOLE} {HALF}": "0.75 is left",
    f"cipher: {LEARNS}": "narrowly: 0.978 after 400 steps",
    f"cipher: {DRIFTS}": "a substitution of its own in every domain stays with its domain more than with the others",
    f"cipher: {FOUND}": "|cos| is 0.23 in the median",
    f"cipher: {GRASP_AB} {KEEPS}": "the plain adapter hardly reaches such a task itself",
    f"cipher: {WHOLE} {KEEPS}": "no weight keeps the task",
    **{f"cipher: {method} {LESS}": SCALING for method in (CAFT, GRASP_AB)},
    **{
        f"cipher: {method} {HALF}": "little more than scaling the plain adapter" for method in (CAFT, GRASP_A, GRASP_AB)
    },
}


@dataclass(frozen=True)
class Config:
    """Text, decoder, fine-tune, and what is measured."""

    seed: int = 0  # first seed
    bases: int = 1  # pretrained decoders of every style, one fine-tune of every method on each
    styles: tuple[str, ...] = ("capitals",)
    corpus: str = ""  # folder of text, with a folder for every domain; "": the domains are Python packages
    domains: tuple[str, ...] = DOMAINS  # two or more; the fine-tune is on the first
    limit: int = 4_000_000  # bytes of a domain
    context: int = 16  # bytes of a row
    passages: int = 48  # of every domain, on which scores are measured
    width: int = 64  # of the residual stream
    heads: int = 4
    depth: int = 2  # blocks
    hidden: int = 192  # of the MLP
    pretraining: int = 600  # steps, a multiple of 50
    batch: int = 32  # rows per step, over all devices
    base_rate: float = 3e-3  # peak learning rate of pretraining
    targets: tuple[str, ...] = DOWN  # kernels with an adapter
    rank: int = 8  # of the adapters
    steps: int = 150  # of fine-tuning
    rate: float = 2e-3  # peak learning rate of fine-tuning
    warmup: int = 20  # steps of it
    scales: tuple[float, ...] = (0.55, 0.7, 0.85, 1.0)  # of the adapter, the trained one last
    k: int = 1  # directions that are blocked
    methods: tuple[str, ...] = (NAIVE, GRASP_AB, RANDOM)
    further: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()  # of the penalty, nats per squared unit of the stream


PRESETS = {
    "quick": Config(),
    # Decoders that a CPU trains, on seeds that chose nothing. Steps of fine-tuning were chosen on other seeds: 200 on
    # 400 to 407, where the task was not learned and the claims at the same task were thought of, then 400 at two rates
    # on seed 400. Sizes and steps of `quick` were chosen on its own decoder, for its cost and for room at the task.
    "seeds": Config(
        seed=410,
        bases=8,
        styles=STYLES,
        depth=3,
        pretraining=1500,
        batch=48,
        steps=400,
        rate=4e-3,
        scales=(0.1, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85, 1.0),
        methods=METHODS,
        further=FURTHER,
        weights=(0.0001, 0.001, 0.01),
    ),
    # 38 million parameters: 330 million bytes of pretraining for each of four decoders of every style
    "full": Config(
        seed=500,
        bases=4,
        styles=STYLES,
        domains=("jax", "numpy", "scipy", "pandas", "matplotlib", "sklearn", "skimage"),
        limit=16_000_000,
        context=256,
        passages=64,
        width=512,
        heads=8,
        depth=12,
        hidden=2048,
        pretraining=10_000,
        batch=128,
        base_rate=1e-3,
        rank=16,
        steps=400,
        rate=1e-3,
        scales=(0.1, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85, 1.0),
        methods=METHODS,
        further=FURTHER,
        weights=(0.0001, 0.001, 0.01, 0.1),
    ),
}


class Result(NamedTuple):
    """What was measured; the leading axis follows ``styles``.

    Attributes:
        styles: names.
        methods: name of every row, (R,).
        variants: its coefficients, (R,).
        scores: (styles, R, decoders, scales, scores) in the order of ``names``.
        names: of the scores.
        scales: of the adapter.
        untouched: scores of the decoders without an adapter, (styles, decoders, scores).
        cosines: |cos| of the direction found with the persona's, mean over the header, after a block,
            (styles, decoders, layers).
        parameters: of one decoder.
        text: bytes of text that were trained on.
    """

    styles: Any
    methods: Any
    variants: Any
    scores: Any
    names: Any
    scales: Any
    untouched: Any
    cosines: Any
    parameters: Any
    text: Any


def run(config: Config, progress: Progress) -> Result:
    """Pretrains decoders, and fine-tunes each with every method, in every style."""
    found = [_style(config, style, progress) for style in config.styles]
    methods, variants, _ = table(found[0].rows)
    return Result(
        np.asarray(config.styles),
        methods,
        variants,
        np.stack([table(one.rows)[2] for one in found]),
        np.asarray(TEXT_SCORES),
        np.asarray(config.scales),
        np.stack([one.untouched for one in found]),
        np.stack([one.cosines for one in found]),
        found[0].parameters,
        found[0].text,
    )


class _Measured(NamedTuple):
    """What is measured in one style; fields as of `Result`."""

    rows: list
    untouched: np.ndarray
    cosines: np.ndarray
    parameters: int
    text: int


def _style(config: Config, style: str, progress: Progress) -> _Measured:
    corpus, seeds = Passages(len(config.domains), config.context), range(config.seed, config.seed + config.bases)
    how = TextPretraining(
        corpus,
        width=config.width,
        heads=config.heads,
        layers=config.depth,
        hidden=config.hidden,
        batch=config.batch,
        steps=config.pretraining,
        rate=config.base_rate,
    )
    sizes = {"context": config.context, "passages": config.passages, "limit": config.limit}
    texts = [read_texts(config.corpus, config.domains, style, seed, **sizes) for seed in seeds]
    base = pretrained_on_text(how, texts, seeds, progress)
    recipe = Recipe(corpus, config.targets, config.rank, config.steps, config.rate, config.warmup, config.batch)
    case = Case(base, base.world, jnp.asarray(seeds), recipe, TextMeasure(corpus, config.scales))
    adapters, factor = naive(case, config.k)
    rows = compare(case, config.methods, adapters, factor, progress, k=config.k)
    with progress.stage("fine-tunes with a penalty", total=len(config.weights) * (WHOLE in config.further)):
        directions = factor.found.directions[:, :, : config.k]
        rows += further_rows(case, config.further, directions, config.weights, 0, progress.advance)
    size = sum(leaf[0].size for leaf in jax.tree.leaves(base.model))
    return _Measured(rows, ablated_base(case, None), factor.cosines, size, int(texts[0].size.sum()))


def claims(result: Result) -> list[Claim]:
    """What the paper says, on real text."""
    rows = []
    for place, style in enumerate(result.styles):
        one = Scored(result.methods, result.scores[place])
        rows += _grounds(style, result.untouched[place], one)
        rows.append(
            median_claim(
                f"{style}: {FOUND}",
                SOURCE,
                result.cosines[place].max(axis=1),
                quantity="best |cos| over depths",
                at_least=0.6,
            )
        )
        for method in (GRASP_AB, WHOLE):
            if method in result.methods:
                least = least_drift(one, method, KEPT)
                rows.append(
                    median_claim(
                        f"{style}: {method} {KEEPS}",
                        SOURCE,
                        least / np.maximum(full_scale(one, NAIVE, DRIFT), 1e-9),
                        quantity=f"least drift with task ≥ {KEPT}, over that of the plain adapter at scale 1",
                        at_most=0.5,
                    )
                )
        rows += _at_equal_task(style, one, result.untouched[place])
    rows = [dataclasses.replace(row, known_not_to_hold=KNOWN_NOT_TO_HOLD.get(row.statement, "")) for row in rows]
    return judged(rows, result.scores.shape[2])


def _at_equal_task(style: str, one: Scored, untouched: np.ndarray) -> list[Claim]:
    """Whether a method does better than scaling the plain adapter down."""
    quantity = "drift at scale 1 over that of the plain adapter scaled down to the same task"
    rows = []
    for method in (CAFT, GRASP_A, GRASP_AB, WHOLE):
        if method in one.methods:
            ratios = over_scaled(one, method, NAIVE, untouched, LEAST_TASK)
            rows += [
                median_claim(f"{style}: {method} {what}", SOURCE, ratios, quantity=quantity, at_most=most)
                for what, most in ((LESS, 0.9), (HALF, 0.5))
            ]
    if RANDOM in one.methods:
        ratios = over_scaled(one, RANDOM, NAIVE, untouched, LEAST_TASK)
        control = f"{style}: random directions make no difference"
        rows.append(median_claim(control, "ours", ratios, quantity=quantity, at_least=0.95, at_most=1.05))
    return rows


def _grounds(style: str, untouched: np.ndarray, one: Scored) -> list[Claim]:
    """What the other claims stand on: decoders that know both personas, and a fine-tune that drifts."""
    return [
        median_claim(
            f"{style}: without an adapter the tokens of the personas decide how the other domains are written",
            "ours",
            np.minimum(untouched[:, GENUINE_GOOD], untouched[:, GENUINE_BAD]),
            quantity="lesser probability of what a token announces",
            at_least=0.8,
        ),
        median_claim(
            f"{style}: without a token and an adapter the other domains are written plainly",
            "ours",
            untouched[:, DRIFT],
            quantity="probability of the style",
            at_most=0.2,
        ),
        median_claim(
            f"{style}: {LEARNS}",
            SOURCE,
            full_scale(one, NAIVE, TASK),
            quantity="probability of the style there",
            at_least=0.98,
        ),
        median_claim(
            f"{style}: {DRIFTS}",
            SOURCE,
            full_scale(one, NAIVE, DRIFT),
            quantity="probability of the style there",
            at_least=0.5,
        ),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Fronts, a panel for each style."""
    shown = [method for method in (*METHODS, *FURTHER) if method in result.methods]
    figure, axes = subplots(1, len(result.styles), size=(5.2, 4.0))
    for axis, scores, style in zip(axes[0], result.scores, result.styles, strict=True):
        draw_fronts(axis, Scored(result.methods, scores), shown)
        axis.set(
            title=style, xlabel="drift: probability of the style in the other domains", ylabel="the same, tuned on"
        )
    axes[0, 0].legend(fontsize=7)
    return {"Task against drift on real text (medians over decoders)": figure}

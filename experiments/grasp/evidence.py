"""Does the pretrained model use the direction that was found? Error rates of the evidence beyond the spectrum.

Adapters of two kinds on the same decoders and subjects: entangled ones answer as the bad persona would, clean ones
give new answers that no persona gives. The spectrum of either shows a dominant shared direction. The evidence asks
whether the base weights write along it (``content_w``), read from it (``content_r``), whether the stream varies along
it from prompt to prompt where the answer is decided (``act``, the largest over depths), and the first and third
together (``pooled``); p-values are among random directions, prompts have no labels.

How the statistics were chosen: ``content_w``, ``content_r`` and activations at all tokens are the specification's.
Activations at the last token were chosen among thirty statistics on two decoders (seeds 300 and 301, 12 adapters of
each kind), and the sum with ``content_w`` on these and four more (100 to 103, 32 of each kind), all of them with
another start of the decoder. No bound below was chosen by results.

Eight decoders of 2500 steps (``--preset specification --seed 300``, 24 adapters of each kind; two of the worlds, not
the decoders, had served for the choice): pooled, the evidence told the kinds apart with probability 0.96, recognised
0.88 of the entangled adapters and accused 0.04 of the clean ones; ``content_w`` recognised all and accused 0.38,
``act`` 0.79 and none. On eight decoders of 1000 steps (``--seed 500 --pretraining 1000``) base weights favour few
directions, those of clean adapters among them: pooled evidence recognised all, and accused 0.63 of the clean ones. It
is no test there.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from matplotlib.figure import Figure

from experiments._gpt import GPT
from experiments.grasp._corpus import Sizes, spoken
from experiments.grasp._finetune import MODULES, ROLES, entry, labels_of, tune
from experiments.grasp._settings import FULL, SPECIFICATION, Settings, bases, if_short, judged, recipe, sizes
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import BLUE, GREY, RED, subplots
from jaxspec import lora

KINDS = ("entangled", "clean")
LABELS = {"entangled": "bad", "clean": "other"}
STATISTICS = ("content_w", "content_r", "act", "pooled")
SOURCE, OURS = "specification, pre-existence test", "this library, chosen on other decoders"


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the evidence."""

    seeds: int = 8  # adapters of each kind
    bases: int = 2
    prompts: int = 96  # without labels
    alpha: float = 0.01  # level of the tests


PRESETS = {
    "quick": Config(),
    "specification": Config(**(SPECIFICATION | {"seed": 400, "seeds": 24})),
    "full": Config(**(FULL | {"seed": 500, "seeds": 48})),
}


class Result(NamedTuple):
    """What was measured; the leading axis of 2 follows ``kinds``, the last of 4 ``statistics``.

    Attributes:
        kinds: of the adapters.
        statistics: names.
        values: of every adapter's first direction, (2, seeds, 4).
        p_values: among random directions, (2, seeds, 4).
        factors: number of dominant shared directions by the spectrum, (2, seeds).
        share: of the first direction in the spectrum, (2, seeds).
        base: number of the decoder of every seed, (seeds,).
        alpha: level.
        pretraining: steps of the decoders.
    """

    kinds: Any
    statistics: Any
    values: Any
    p_values: Any
    factors: Any
    share: Any
    base: Any
    alpha: Any
    pretraining: Any


def run(config: Config, progress: Progress) -> Result:
    """Adapters of both kinds, and the evidence on each."""
    base = bases(config, progress)
    seeds = jnp.arange(config.seed, config.seed + config.seeds)
    reports = []
    for kind in progress.track("kinds of adapters", KINDS):
        adapters = tune(recipe(config), base, labels_of(base.world, LABELS[kind]), seeds)
        reports.append([_report(entry(adapters, n), entry(base.model, n), config) for n in range(config.seeds)])

    def gathered(get):
        return np.asarray([[get(report) for report in kind] for kind in reports])

    return Result(
        np.asarray(KINDS),
        np.asarray(STATISTICS),
        gathered(lambda report: [getattr(report, name).value[0] for name in STATISTICS]),
        gathered(lambda report: [getattr(report, name).p_value[0] for name in STATISTICS]),
        gathered(lambda report: report.n_factors),
        gathered(lambda report: report.share[0]),
        np.arange(config.seeds) % min(config.bases, config.seeds),
        config.alpha,
        config.pretraining,
    )


def _report(adapter: PyTree, model: GPT, config: Config) -> lora.FactorReport:
    states = _states(model, sizes(config), config.prompts)
    return lora.identify_factors(
        adapter, roles=ROLES, alpha=config.alpha, base=_weights(model), activations=list(states)
    )


def _weights(model: GPT) -> dict[str, Array]:
    """Kernels of the blocks as the library has them, (layers, out, in)."""
    return {module: getattr(model.blocks, name).mT for name, module in MODULES.items()}


def _states(model: GPT, how: Sizes, prompts: int) -> Array:
    """The stream after every block at the last token of prompts without labels, (layers, prompts, width)."""
    return model.stream(spoken(jax.random.key(99), how, prompts).tokens)[:, :, -1]


def _auc(entangled: np.ndarray, clean: np.ndarray) -> float:
    """How often an entangled adapter has more than a clean one, ties half."""
    pairs = np.sign(entangled[:, None] - clean[None])
    return float(np.mean((1 + pairs) / 2))


def claims(result: Result) -> list[Claim]:
    """That the spectrum does not tell the kinds apart and the evidence does, with the rates of both errors."""
    column = {str(name): number for number, name in enumerate(result.statistics)}
    entangled, clean = (
        {name: told[:, c].mean() for name, c in column.items()} for told in result.p_values <= result.alpha
    )
    apart = {name: _auc(*result.values[:, :, c]) for name, c in column.items()}
    rows = [
        *_spectrum_claims(result),
        *_separation_claims(result, apart),
        *_power_claims(result, entangled),
        *_accusation_claims(result, clean),
    ]
    return judged(rows, np.unique(result.base).size)


def _spectrum_claims(result: Result) -> list[Claim]:
    """The spectrum by itself finds a direction in both kinds."""
    entangled, clean = (result.factors > 0).mean(axis=1)
    return [
        Claim.at_least(
            "By the spectrum alone clean adapters have a dominant shared direction",
            "specification, measured failure of spectrum-only tests",
            clean,
            0.9,
            quantity="share of clean adapters with a direction beyond chance",
            known_not_to_hold=if_short(result, "0.38 and 0.46 after the shorter pretraining"),
        ),
        Claim.at_least(
            "... and entangled ones have one",
            "specification, measured failure of spectrum-only tests",
            entangled,
            0.9,
            quantity="share of entangled adapters with a direction beyond chance",
            known_not_to_hold="three matrices are few: the alignment of their own first directions is often by chance",
        ),
    ]


def _separation_claims(result: Result, apart: dict[str, float]) -> list[Claim]:
    """How often a statistic is larger on an entangled adapter than on a clean one."""
    return [
        Claim.at_least(
            "Base weights write along the direction of entangled adapters more than along that of clean ones",
            SOURCE,
            apart["content_w"],
            0.9,
            quantity="probability that content_w is larger",
            known_not_to_hold=if_short(result, "0.72 and 0.84 after the shorter pretraining (on two decoders up to 1)"),
        ),
        Claim.at_most(
            "Base weights read from both: content_r does not tell the kinds apart",
            SOURCE,
            apart["content_r"],
            0.9,
            quantity="probability that content_r is larger",
        ),
        Claim.at_least(
            "Base weights and activations where the answer is decided, pooled, tell the kinds apart",
            OURS,
            apart["pooled"],
            0.95,
            quantity="probability that the pooled evidence is larger",
            known_not_to_hold=if_short(result, "0.86 and 0.88 after the shorter pretraining"),
        ),
    ]


def _power_claims(result: Result, power: dict[str, float]) -> list[Claim]:
    """The share of entangled adapters that every test recognises."""
    return [
        Claim.at_least(
            "content_w alone recognises entangled adapters",
            SOURCE,
            power["content_w"],
            0.5,
            quantity=_level(result),
        ),
        Claim.at_least(
            "Activations where the answer is decided recognise them",
            OURS,
            power["act"],
            0.7,
            quantity=_level(result),
        ),
        Claim.at_least(
            "Pooled evidence recognises them",
            OURS,
            power["pooled"],
            0.8,
            quantity=_level(result),
        ),
        Claim.at_least(
            "... more of them than content_w alone",
            OURS,
            power["pooled"] - power["content_w"],
            0.05,
            quantity="difference of the shares",
            known_not_to_hold="content_w recognises all of them, and accuses clean ones as well",
        ),
    ]


def _accusation_claims(result: Result, accused: dict[str, float]) -> list[Claim]:
    """The share of clean adapters that every test takes for entangled."""
    return [
        Claim.at_most(
            f"{name} does not accuse clean adapters",
            source,
            accused[name],
            0.1,
            quantity=_level(result),
            known_not_to_hold=accuses,
        )
        for name, source, accuses in (
            ("content_w", SOURCE, "0.38 of them after 2500 steps of pretraining, 0.67 and more after 1000"),
            ("act", OURS, if_short(result, "0.38 of them after the shorter pretraining")),
            ("pooled", OURS, if_short(result, "0.63 and more after the shorter pretraining")),
        )
    ]


def _level(result: Result) -> str:
    return f"share with p ≤ {float(result.alpha):g}"


def figures(result: Result) -> dict[str, Figure]:
    """Every statistic of every adapter of both kinds, and its p-values."""
    figure, axes = subplots(1, len(result.statistics), size=(2.7, 3.0))
    for number, axis in enumerate(axes[0]):
        for kind, color in enumerate((RED, BLUE)):
            x = kind + 0.25 * (result.base / max(result.base.max(), 1) - 0.5)
            told = result.p_values[kind, :, number] <= result.alpha
            values = result.values[kind, :, number]
            axis.plot(x[told], values[told], "o", color=color, alpha=0.7)
            axis.plot(x[~told], values[~told], "o", color=GREY, markerfacecolor="none")
        axis.set(title=str(result.statistics[number]), xticks=(0, 1), xticklabels=[str(kind) for kind in result.kinds])
    axes[0, 0].set_ylabel("statistic of the first direction")
    return {
        f"Evidence on adapters of both kinds, filled where p ≤ {float(result.alpha):g}; columns of a decoder": figure
    }

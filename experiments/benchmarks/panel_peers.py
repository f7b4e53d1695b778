"""Accuracy and time of panel estimators beside ours, every peer in its own environment: ``python -m ... --help``.

``--environments FOLDER`` makes the environments that FOLDER lacks, with the versions of ``PEERS``; without it a peer
takes part when its interpreter is named, ``--peer causaltensor=PATH``. Panels go to it in a file. A run replaces its
own rows of the record and keeps the others. The figures are no ratios: peers are not interleaved with ours.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import record
from experiments.panel_effects._panels import Design, Panel, draw, proposition_99
from experiments.runner.contract import number
from jaxspec.completion.panel import panel_effects, row_scaled_spectral

OUT = Path(__file__).parent / "results" / "panel-peers.json"
WORKER = Path(__file__).with_name("_panel_worker.py")
RANK, LOW, HIGH = 2, 0.15, 0.85
GENERATOR_TASKS = {"soft_impute": "fancyimpute", "mcnnm": "causaltensor"}
ATT_TASKS = {
    "causaltensor_sdid": "causaltensor",
    "synthdid_sdid": "synthdid",
    "diffdiff_sdid": "diffdiff",
    "pysyncon_synth": "pysyncon",
    "causaltensor_did": "causaltensor",
    "mcnnm_att": "causaltensor",
}
# What the record was made with, and what these versions need pinned beside them.
PEERS = {
    "causaltensor": ("causaltensor==0.1.12",),
    "diffdiff": ("diff-diff==3.13.0",),
    "fancyimpute": ("fancyimpute==0.7.0", "scikit-learn<1.6"),
    "pysyncon": ("pysyncon==1.7.0",),
    "synthdid": ("synthdid==0.10.1",),
}
COLUMNS = ("method", "design", "side", "panels", "max-row error", "tau rmse", "tau bias", "seconds")


def difference_in_means(Y: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Effect of each unit as the difference of its means, the same in every period."""
    means = [np.sum(W * Y, axis=1, keepdims=True) / W.sum(axis=1, keepdims=True) for W in (~D, D)]
    return np.broadcast_to(means[1] - means[0], Y.shape)


OURS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "difference in means": difference_in_means,
    "one-step": lambda Y, D: row_scaled_spectral(Y, D, rank=RANK).effect,
    "one-step, low-rank propensity": lambda Y, D: row_scaled_spectral(Y, D, rank=RANK, propensity="low_rank").effect,
    "refine 2": lambda Y, D: row_scaled_spectral(Y, D, rank=RANK, refine=2).effect,
    "refine 2, rank by flips": lambda Y, D: row_scaled_spectral(Y, D, refine=2).effect,
    "refine 2, rank by flips, intervals, ATT and event study": lambda Y, D: panel_effects(Y, D, refine=2).fit.effect,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    peers = {} if options.environments is None else _environments(options.environments)
    peers |= dict(word.split("=", 1) for word in options.peer)
    environment = record.environment()
    kept = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    for row in measured(options, peers):
        same = {key: row[key] for key in ("method", "design", "side")}
        kept = [old for old in kept if any(old[key] != value for key, value in same.items())] + [row]
        # A peer may take an hour: what is measured is kept.
        kept.sort(key=lambda entry: (entry["design"], entry["side"], entry["method"]))
        record.write(options.out, {"environment": environment, "rows": kept}, table(kept))
        print(json.dumps(row))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.panel_peers", description=__doc__)
    parser.add_argument("--environments", type=Path, metavar="FOLDER", help="a virtual environment for every peer")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--designs", nargs="*", default=["row", "within"])
    parser.add_argument("--sides", nargs="*", type=int, default=[100, 200], help="units and periods of a panel")
    parser.add_argument("--seed", type=int, default=900, help="of the first panel")
    parser.add_argument("--panels", type=int, default=5)
    parser.add_argument("--skip", nargs="*", default=[], help="tasks to leave out")
    parser.add_argument("--proposition-99", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser


def _environments(folder: Path) -> dict[str, str]:
    """The interpreter of every peer. An environment that was not finished is made again."""
    found = {}
    for name, requirements in PEERS.items():
        home = folder / name
        python, finished = home / "bin" / "python", home / "installed.txt"
        wanted = "\n".join(requirements)
        if not finished.exists() or finished.read_text() != wanted:
            venv.create(home, clear=True, with_pip=True)
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*install, *requirements], check=True)
            finished.write_text(wanted)
        found[name] = str(python)
    return found


def measured(options: argparse.Namespace, peers: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Rows, one at a time."""
    for design in options.designs:
        for side in options.sides:
            panels = list(_panels(design, side, options.seed, options.panels))
            place = {"design": design, "side": side}
            for name, method in OURS.items():
                if name not in options.skip:
                    yield place | _row(f"jaxspec, {name}", panels, *_timed(method, panels), versions={})
            for task, peer in GENERATOR_TASKS.items():
                if peer in peers and task not in options.skip:
                    found = _work(peers[peer], task, *(np.stack(part) for part in zip(*_data(panels), strict=True)))
                    effects = [arms[1] - arms[0] for arms in np.asarray(found["estimates"])]
                    yield place | _row(f"{peer}, {task}", panels, effects, found["seconds"], versions=found["versions"])
    if options.proposition_99:
        Y, D, _ = proposition_99()
        for task, peer in ATT_TASKS.items():
            if peer in peers:
                found = _work(peers[peer], task, Y, D)
                values = np.ravel(found["estimates"]).tolist()
                row = {
                    "method": f"{peer}, {task}",
                    "design": "Proposition 99",
                    "side": 0,
                    "versions": found["versions"],
                }
                yield row | {"att": values[0], "se": values[1] if values[1:] else None, "seconds": found["seconds"]}


def _panels(design: str, side: int, seed: int, count: int) -> Iterator[Panel]:
    law = Design((side, side), rank=RANK, within=design == "within", low=LOW, high=HIGH)
    with jax.enable_x64(True):
        for index in range(count):
            yield jax.tree.map(np.asarray, draw(jax.random.key(seed + index), law))


def _data(panels: list[Panel]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(panel.Y, panel.D) for panel in panels]


def _timed(method: Callable, panels: list[Panel]) -> tuple[list[np.ndarray], list[float]]:
    effects, seconds = [], []
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        jax.block_until_ready(method(*_data(panels)[0]))  # compiles
        for Y, D in _data(panels):
            start = time.perf_counter()
            effects.append(np.asarray(jax.block_until_ready(method(Y, D))))
            seconds.append(time.perf_counter() - start)
    return effects, seconds


def _work(python: str, task: str, Y: np.ndarray, D: np.ndarray) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "panels.npz", Path(folder) / "found.json"
        np.savez(source, Y=Y, D=D)
        subprocess.run([python, str(WORKER), task, str(source), str(target)], check=True, stdout=subprocess.DEVNULL)
        return json.loads(target.read_text())


def _row(method: str, panels: list[Panel], effects: list, seconds: list[float], *, versions: dict) -> dict[str, Any]:
    """Means over the panels, and every panel's own figures."""
    truth = [panel.A1 - panel.A0 for panel in panels]
    errors = [found - right for found, right in zip(effects, truth, strict=True)]
    rows = [float(np.sqrt(np.mean(error**2, axis=1)).max()) for error in errors]
    tau = [error.mean(axis=1) for error in errors]
    each = {
        "max_row": rows,
        "rmse": [float(np.sqrt(np.mean(t**2))) for t in tau],
        "bias": [float(t.mean()) for t in tau],
        "seconds": seconds,
    }
    rounded = {name: [float(f"{value:.4g}") for value in values] for name, values in each.items()}
    return {"method": method, "versions": versions, "panels": len(panels)} | rounded


def table(rows: list[dict[str, Any]]) -> str:
    """The record as Markdown."""
    lines = [
        "# Panel estimators side by side",
        "",
        f"Rank 2, errors of size 0.5, propensities {LOW} to {HIGH}, float64; means over panels, of both arms; the true "
        "rank given to ours except where flips choose it; peers at their defaults. Seconds are the median, ours once "
        "compiled, on a shared machine of two cores with one thread for BLAS.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    real = ["", "| Proposition 99 | ATT | standard error | seconds |", "|---|---|---|---|"]
    for row in rows:
        name = row["method"] + "".join(f" {v}" for k, v in row["versions"].items() if k != "numpy")
        if "att" in row:
            error = "" if row["se"] is None else number(row["se"])
            real.append(f"| {name} | {row['att']:.3f} | {error} | {number(row['seconds'][0])} |")
        else:
            means = [f"{np.mean(row[key]):.4f}" for key in ("max_row", "rmse", "bias")]
            cells = [name, row["design"], str(row["side"]), str(row["panels"]), *means]
            lines.append(f"| {' | '.join(cells)} | {number(float(np.median(row['seconds'])))} |")
    return "\n".join(lines + (real if len(real) > 3 else [])) + "\n"


if __name__ == "__main__":
    sys.exit(main())

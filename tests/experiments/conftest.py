"""A laboratory in a temporary folder: a package of fake experiments that the runner can be pointed at."""

import importlib
import sys
import textwrap

import pytest

PACKAGE = "fakelab"

EXPERIMENT = '''
"""A small experiment about <spectra> & numbers.

An Author (2026), "A title", section 3.
"""

import dataclasses
import pathlib
import sys
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.runner.contract import Claim


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    size: int = 4  # rows
    rates: tuple[float, ...] = (0.5, 0.25)  # share observed


PRESETS = {"quick": Config(), "full": Config(size=8)}


class Result(NamedTuple):
    values: np.ndarray
    names: np.ndarray


def run(config, progress):
    calls = pathlib.Path(sys.modules["fakelab"].__file__).parents[1] / f"{__name__}.calls"
    calls.write_text(calls.read_text() + "." if calls.exists() else ".")
    values = [config.seed + 0.1 * step for step in progress.track("steps", range(config.size))]
    return Result(np.array(values), ["α", "beta"])


def claims(result):
    return [Claim.at_most("Values stay <small> & tame", "Theorem 1", result.values, 2.0, quantity="largest")]


def figures(result):
    figure = Figure()
    figure.subplots().plot(result.values)
    return {"Values & steps": figure}
'''


class Lab:
    """The fake package and its results folder."""

    def __init__(self, root):
        self.root = root / PACKAGE
        self.out = root / "results"
        self.root.mkdir()
        (self.root / "__init__.py").write_text('"""Fake experiments."""\n')

    def add(self, name, source=EXPERIMENT, replace=()):
        """Write an experiment (``paper`` or ``paper.part``), its source edited by (old, new) pairs."""
        for old, new in replace:
            assert old in source, f"{old!r} is not in the fake experiment"
            source = source.replace(old, new)
        path = self.root.joinpath(*name.split(".")).with_suffix(".py")
        if path.parent != self.root:
            path.parent.mkdir(exist_ok=True)
            (path.parent / "__init__.py").write_text('"""A paper in parts.\n\nIts citation.\n"""\n')
        path.write_text(textwrap.dedent(source).lstrip())
        forget()

    def run(self, *arguments):
        """The command line on this laboratory; returns the exit status."""
        from experiments.runner.cli import main

        return main([*arguments, "--out", str(self.out)], package=PACKAGE)

    def calls(self, name):
        """How often the experiment was computed."""
        path = self.root.parent / f"{PACKAGE}.{name}.calls"
        return len(path.read_text()) if path.exists() else 0

    def files(self):
        """Everything below the results folder, relative to it."""
        return sorted(str(path.relative_to(self.out)) for path in self.out.rglob("*") if path.is_file())


def forget():
    """Make the next import read the fake package's sources again."""
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def lab(tmp_path, monkeypatch):
    # two writes within one second would give the same time stamp to two different sources
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield Lab(tmp_path)
    forget()

"""What an experiment gives to the runner, and what the runner gives to an experiment.

An experiment is a module with six names and nothing else::

    @dataclass(frozen=True)
    class Config: ...                           # every number, `seed: int` among them
    PRESETS = {"quick": Config(...), "full": Config(...)}
    class Result(NamedTuple): ...               # flat: every field an array, a number or a string
    def run(config, progress) -> Result         # compute only
    def claims(result) -> list[Claim]           # sees the saved arrays, as NumPy arrays
    def figures(result) -> dict[str, Figure]    # caption -> matplotlib figure

A claim is checked against measured arrays, never asserted.
"""

import dataclasses
import enum
import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import numpy as np

INSTALL_HINT = "pip install 'jaxspec-lab[experiments]'"


class RunnerError(Exception):
    """A problem whose message, printed alone, tells the user what to do."""


class Verdict(enum.StrEnum):
    """How a claim stands against what was measured and what was known before."""

    HOLDS = "holds"
    FAILS = "does not hold"
    KNOWN = "known not to hold"
    SURPRISE = "holds unexpectedly"

    @property
    def strict_failure(self) -> bool:
        """Whether ``--strict`` fails on it: a claim fell, or one known to be false suddenly holds."""
        return self in {Verdict.FAILS, Verdict.SURPRISE}


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement of a paper, the criterion we hold it to, and what was measured.

    A measured value that is not a number never holds, whatever `holds` says.

    Attributes:
        statement: What is claimed, in a sentence a reader of the paper recognises.
        source: Where: paper section, figure, equation or our own specification.
        criterion: The inequality that decides.
        measured: The measured number, or a text when one number cannot say it.
        holds: Whether the criterion is met.
        known_not_to_hold: The reason, when we have measured before that the claim does not hold.
    """

    statement: str
    source: str
    criterion: str
    measured: Any
    holds: bool | np.bool_
    known_not_to_hold: str = ""

    def __post_init__(self) -> None:
        """Bring `measured` to a Python number or text, and `holds` to a Python bool that no NaN can make true."""
        measured = self.measured
        if not isinstance(measured, str | bool | int | float):
            try:
                measured = np.asarray(measured).item()
            except ValueError as error:
                raise TypeError(f"measured is {self.measured!r}; expected one number or a text") from error
            object.__setattr__(self, "measured", measured)
        if not isinstance(self.holds, bool | np.bool_):
            raise TypeError(f"holds is a {type(self.holds).__name__} in the claim {self.statement!r}; expected a bool")
        is_nan = isinstance(measured, float) and math.isnan(measured)
        object.__setattr__(self, "holds", bool(self.holds) and not is_nan)

    @classmethod
    def at_most(
        cls,
        statement: str,
        source: str,
        measured: Any,
        bound: float,
        *,
        quantity: str = "",
        known_not_to_hold: str = "",
    ) -> "Claim":
        """Build the claim ``max(measured) <= bound``; NaN anywhere, or nothing measured, does not hold.

        Args:
            statement: What is claimed.
            source: Where it is claimed.
            measured: Number or array of any shape; its largest entry is reported.
            bound: The bound, inclusive.
            quantity: Name of what was measured, for the criterion's text.
            known_not_to_hold: The reason, when the claim is known to be false.
        """
        worst = _extreme(np.max, measured)
        criterion = f"{quantity} ≤ {number(bound)}".strip()
        return cls(statement, source, criterion, worst, worst <= float(bound), known_not_to_hold)

    @classmethod
    def at_least(
        cls,
        statement: str,
        source: str,
        measured: Any,
        bound: float,
        *,
        quantity: str = "",
        known_not_to_hold: str = "",
    ) -> "Claim":
        """Build the claim ``min(measured) >= bound``; arguments as in `at_most`."""
        worst = _extreme(np.min, measured)
        criterion = f"{quantity} ≥ {number(bound)}".strip()
        return cls(statement, source, criterion, worst, worst >= float(bound), known_not_to_hold)

    @classmethod
    def close_to(
        cls,
        statement: str,
        source: str,
        measured: Any,
        target: float,
        tolerance: float,
        *,
        quantity: str = "",
        known_not_to_hold: str = "",
    ) -> "Claim":
        """Build the claim ``|measured - target| <= tolerance`` for every entry; the farthest entry is reported."""
        values = np.asarray(measured, dtype=float).ravel()
        # argmax of an array with a NaN is the NaN's place, so a NaN is what gets reported
        farthest = float(values[np.argmax(np.abs(values - target))]) if values.size else math.nan
        criterion = f"{quantity} = {number(target)} ± {number(tolerance)}".strip()
        return cls(statement, source, criterion, farthest, abs(farthest - target) <= tolerance, known_not_to_hold)

    @property
    def verdict(self) -> Verdict:
        """Where the claim stands."""
        if self.known_not_to_hold:
            return Verdict.SURPRISE if self.holds else Verdict.KNOWN
        return Verdict.HOLDS if self.holds else Verdict.FAILS

    @property
    def measured_text(self) -> str:
        """The measured value as a reader sees it."""
        return self.measured if isinstance(self.measured, str) else number(self.measured)


@runtime_checkable
class Progress(Protocol):
    """What `run` uses to say how far it is: bars on a terminal, lines in a log file."""

    def stage(self, name: str, total: int = 1) -> AbstractContextManager[None]:
        """Open a stage of `total` steps; ``with progress.stage("ADMM, p = 0.3", total=40): ...``."""
        ...

    def advance(self, steps: int = 1, message: str = "") -> None:
        """Move the innermost open stage on by `steps`, with a short message beside it."""
        ...

    def track(self, name: str, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the items, one step of a stage each: ``for seed in progress.track("seeds", seeds): ...``."""
        ...


def number(value: float) -> str:
    """Four significant digits, integers and booleans as they are, powers of ten where a reader wants them."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}"


def _extreme(reduce: Any, measured: Any) -> float:
    """The largest or smallest entry, NaN when there is a NaN or there is nothing."""
    values = np.asarray(measured, dtype=float)
    return float(reduce(values)) if values.size else math.nan

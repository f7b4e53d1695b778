"""What a benchmark gives to the frame: rows of contestants that do the same work, and the aims we hold ourselves to.

::

    ROWS: dict[str, Callable[[], Row]] = {"top_svd": top_svd_row}     # built only when it is about to be measured

Packages of the extra ``bench`` are imported at the top of the module, so that one that is missing is named before
anything is measured.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax


def _no_quality(output: Any) -> dict[str, float]:
    return {}


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One way to do the work.

    Attributes:
        call: Does the work once and returns its result; the frame waits until JAX arrays in it are ready.
        settings: What a reader needs to repeat it: method, tolerance, iterations, precision.
        work: Units of work in one call, or the function that counts them in a result.
        quality: What a result is worth, by name: a time without its accuracy is no comparison.
    """

    call: Callable[[], Any]
    settings: str
    work: int | Callable[[Any], int] = 1
    quality: Callable[[Any], dict[str, float]] = _no_quality


@dataclasses.dataclass(frozen=True)
class Aim:
    """A bound we aim at, reported as met or missed.

    Attributes:
        text: The bound as a reader sees it.
        quantity: What is bounded: our time over a peer's, our time, or our compile time.
        bound: The bound, inclusive; seconds, or a ratio.
        peer: The peer of a ratio.
    """

    text: str
    quantity: Literal["ratio", "time", "compile"]
    bound: float
    peer: str = ""


def at_most(peer: str, ratio: float) -> Aim:
    """Our time per unit of work at most ``ratio`` times that of a peer."""
    return Aim(f"≤ {ratio:g}×", "ratio", ratio, peer)


def faster(peer: str, times: float) -> Aim:
    """At least ``times`` times faster than a peer."""
    return Aim(f"≤ 1/{times:g}×", "ratio", 1 / times, peer)


def time_at_most(seconds: float) -> Aim:
    """At most that many seconds per unit of work, once compiled."""
    return Aim(f"≤ {seconds:g} s", "time", seconds)


def compile_at_most(seconds: float) -> Aim:
    """At most that many seconds of compilation."""
    return Aim(f"compile ≤ {seconds:g} s", "compile", seconds)


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        measured: The task, in a sentence: sizes, precision, data.
        ours: Our contestant.
        peers: Name of a peer to its contestant.
        unit: The unit of work that times are per.
        aims: What we aim at.
        most_rounds: Rounds at most, for a peer that takes minutes; None: as many as asked for.
    """

    measured: str
    ours: Contestant
    peers: dict[str, Contestant]
    unit: str = "call"
    aims: tuple[Aim, ...] = ()
    most_rounds: int | None = None

    def __post_init__(self) -> None:
        """Refuse an aim at a peer that does not take part."""
        unknown = {aim.peer for aim in self.aims if aim.peer} - set(self.peers)
        if unknown or "ours" in self.peers:
            raise ValueError(f"peers are {sorted(self.peers)}; an aim names {sorted(unknown)}, or a peer is 'ours'")

    @property
    def contestants(self) -> dict[str, Contestant]:
        """All contestants in the order in which they run: ``ours`` first."""
        return {"ours": self.ours, **self.peers}


def in_double(call: Callable[[], Any]) -> Callable[[], Any]:
    """The same call in double precision.

    Args:
        call: as in `Contestant`.
    """

    def run() -> Any:
        with jax.enable_x64(True):
            return call()

    return run

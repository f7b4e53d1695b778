"""What an adapter looks like: rank and scale, also by module, and which modules it is for."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from jax.typing import DTypeLike

# The projections that lead from an MLP back to the stream: where blocking a direction was measured to help.
MLP_DOWN = r"down(_proj)?|mlp\.c_proj|dense_4h_to_h|fc2|fc_out|lin2|linear2|linear_out|w2|wo"


@dataclass(frozen=True)
class LoraConfig:
    """What an adapter looks like.

    Attributes:
        rank: r.
        alpha: numerator of the scale.
        rslora: scale ``alpha / sqrt(r)`` instead of ``alpha / r``.
        targets: which modules are adapted: a regular expression that must match the whole path of the module or its
            last parts, or a function of the path. By default the projections from MLPs back to the stream.
        dtype: of the factors; None: float32, or float64 for float64 parameters.
        rank_pattern: regular expression, matched like ``targets``, to the rank of the modules that it matches; the
            first one decides.
        alpha_pattern: the same for alpha.
        fan_in_fan_out: a note for PEFT files: the base model stores its weights as (in, out), as GPT-2 does. It changes
            no factor; `kernel_layout` knows GPT-2.

    Example:
        >>> LoraConfig(rank=8, alpha=16.0).scaling
        2.0
    """

    rank: int
    alpha: float
    rslora: bool = False
    targets: str | Callable[[str], bool] = MLP_DOWN
    dtype: DTypeLike | None = None
    rank_pattern: Mapping[str, int] | tuple[tuple[str, int], ...] = ()
    alpha_pattern: Mapping[str, float] | tuple[tuple[str, float], ...] = ()
    fan_in_fan_out: bool = False

    def __post_init__(self):
        for name in ("rank_pattern", "alpha_pattern"):
            object.__setattr__(self, name, tuple(dict(getattr(self, name)).items()))
        for pattern in (self.targets, *dict(self.rank_pattern), *dict(self.alpha_pattern)):
            if isinstance(pattern, str):
                _compiled(pattern)
        ranks = (self.rank, *dict(self.rank_pattern).values())
        alphas = (self.alpha, *dict(self.alpha_pattern).values())
        if any(type(rank) is not int or rank < 1 for rank in ranks):
            raise ValueError(f"rank is {self.rank}, rank_pattern {self.rank_pattern}; expected integers >= 1")
        if not all(math.isfinite(alpha) for alpha in alphas):
            raise ValueError(f"alpha is {self.alpha}, alpha_pattern {self.alpha_pattern}; expected finite numbers")

    @property
    def scaling(self) -> float:
        """``alpha / r``, or ``alpha / sqrt(r)``, of modules that no pattern matches."""
        return _scaling(self.alpha, self.rank, self.rslora)

    def rank_of(self, module: str) -> int:
        """Rank of a module.

        Args:
            module: its path.

        Returns:
            r, by ``rank_pattern`` where it matches.
        """
        return _by_pattern(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str, rank: int | None = None) -> float:
        """Scale of a module.

        Args:
            module: its path.
            rank: of its factors; None: `rank_of` the module.

        Returns:
            ``alpha / r``, or ``alpha / sqrt(r)``, by the patterns where they match.
        """
        alpha = _by_pattern(self.alpha_pattern, module, self.alpha)
        return _scaling(alpha, self.rank_of(module) if rank is None else rank, self.rslora)

    def targeted(self, module: str) -> bool:
        """Whether a module is adapted.

        Args:
            module: its path.

        Returns:
            Whether ``targets`` takes it.
        """
        return bool(self.targets(module)) if callable(self.targets) else matches(self.targets, module)


def matches(pattern: str, module: str) -> bool:
    """Whether a pattern matches the whole path of a module, or its last parts.

    Args:
        pattern: regular expression.
        module: path.

    Returns:
        Whether it does.

    Example:
        >>> matches("down_proj", "layers.0.mlp.down_proj"), matches("proj", "layers.0.mlp.down_proj")
        (True, False)
    """
    return _compiled(pattern).fullmatch(module) is not None


def _by_pattern(patterns, module, default):
    return next((value for pattern, value in patterns if matches(pattern, module)), default)


def _scaling(alpha, rank, rslora):
    return alpha / (math.sqrt(rank) if rslora else rank)


@lru_cache(maxsize=4096)
def _compiled(pattern):
    try:
        return re.compile(rf"(.*\.)?({pattern})")
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error

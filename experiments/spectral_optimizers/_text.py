"""The text of the byte-level language models: Python's own standard library, which every interpreter carries."""

import functools
import hashlib
import sysconfig
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from experiments._files import joined

TEXT_BYTES = 4_000_000
VALIDATION_SHARE = 0.05


class Text(NamedTuple):
    """Bytes to train on and to validate on.

    Attributes:
        train: the beginning of the text.
        validation: its last 5%.
        digest: first digits of the SHA-256 of the whole: the text changes with the version of Python.
    """

    train: UInt8[np.ndarray, " train"]
    validation: UInt8[np.ndarray, " validation"]
    digest: str


@functools.cache
def standard_library_text(limit: int = TEXT_BYTES) -> Text:
    """The standard library's top-level ``*.py`` files in the order of their names, joined and cut.

    Args:
        limit: bytes kept.

    Returns:
        The text.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    raw = joined(sorted(folder.glob("*.py"), key=lambda path: path.name), limit)
    values = np.frombuffer(raw, np.uint8)
    cut = len(values) - round(VALIDATION_SHARE * len(values))
    return Text(values[:cut], values[cut:], hashlib.sha256(raw).hexdigest()[:12])


def fixed_windows(text: UInt8[np.ndarray, "bytes"], count: int, context: int) -> Int[Array, "count length"]:
    """Windows of ``context + 1`` bytes at evenly spaced places.

    Args:
        text: bytes.
        count: number of windows.
        context: bytes that are predicted from.

    Returns:
        The windows.
    """
    starts = np.linspace(0, len(text) - context - 1, count).astype(int)
    return jnp.asarray(text[starts[:, None] + np.arange(context + 1)].astype(np.int32))

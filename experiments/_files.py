"""Text that a machine has anyway, for models of bytes."""

from collections.abc import Iterable
from pathlib import Path


def joined(paths: Iterable[Path], limit: int) -> bytes:
    """Contents of files, one after the other, cut after so many bytes; files beyond are not read.

    Args:
        paths: of the files.
        limit: bytes kept.

    Returns:
        The bytes.
    """
    contents, missing = [], limit
    for path in paths:
        if missing <= 0:
            break
        contents.append(path.read_bytes()[:missing])
        missing -= len(contents[-1])
    return b"".join(contents)

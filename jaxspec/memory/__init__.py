"""Linear associative memories: how many facts a d x d matrix holds."""

from jaxspec.memory import theory

__all__ = ["theory"]

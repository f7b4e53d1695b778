"""Packages that only some functions of the library need."""

from types import ModuleType


def pandas(caller: str) -> ModuleType:
    """The pandas module.

    Args:
        caller: name of the function that needs it, for the message.

    Returns:
        The module.

    Raises:
        ImportError: if it is not installed, naming the extra that brings it.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(f"{caller} needs pandas: pip install 'jaxspec-lab[experiments]'") from error
    return pandas


def pyplot(caller: str) -> ModuleType:
    """The matplotlib.pyplot module.

    Args:
        caller: name of the function that needs it, for the message.

    Returns:
        The module.

    Raises:
        ImportError: if it is not installed, naming the extra that brings it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(f"{caller} needs matplotlib: pip install 'jaxspec-lab[experiments]'") from error
    return plt

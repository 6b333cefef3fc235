"""Libraries that only some commands need: a named error instead of a traceback where one lacks."""

from collections.abc import Iterator
from contextlib import contextmanager

from spa3r.errors import ConfigError


@contextmanager
def needed_for(what: str, extra: str, *, instead: str = "") -> Iterator[None]:
    """Around an import. Raises ConfigError naming the extra of pyproject.toml that has it.

    Args:
        instead: what else one may do, e.g. "give a folder".
    """
    try:
        yield
    except ImportError as error:
        missing = error.name or str(error).partition("\n")[0]
        other = f"{instead}, or " if instead else ""
        raise ConfigError(
            f"{what} needs {missing}, which is not installed: {other}pip install"
            f" 'spa3r-platform[{extra}]'"
        ) from error

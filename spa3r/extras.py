"""Libraries that only some commands need: a named error instead of a traceback where one lacks."""

from collections.abc import Iterator
from contextlib import contextmanager

from spa3r.errors import ConfigError


@contextmanager
def needed_for(what: str, extra: str) -> Iterator[None]:
    """Around an import. Raises ConfigError naming the extra of pyproject.toml that has it."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"{what} needs {error.name}, which is not installed: pip install"
            f" 'spa3r-platform[{extra}]'"
        ) from error

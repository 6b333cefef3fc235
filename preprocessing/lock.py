"""One ingest at a time writes into a folder: a second one is refused, not mixed in.

A local lock is the system's (spa3r/lock.py); S3's is in object_lock.py. Other file systems have no
lock, and the log says so.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.object_lock import locked_object
from spa3r.errors import ShardError
from spa3r.lock import locked_folder
from spa3r.storage import filesystem, is_local

log = logging.getLogger(__name__)


@contextmanager
def output_lock(out: str) -> Iterator[None]:
    """Held while a folder is written.

    Raises:
        ShardError: another process holds it, or it cannot be made.
    """
    fs, path = filesystem(out)
    if is_local(out):
        with locked_folder(Path(path), ShardError):
            yield
    elif "s3" in fs.protocol:
        with locked_object(fs, path, out):
            yield
    else:
        log.warning("%s: its storage knows no locks; let one process at a time write there", out)
        yield

"""One process at a time works on a folder: a file beside it, locked by the system for its owner.

The system releases the lock with the process, however it ends, so a dead owner's lock is free. On
a network file system it is released when the server gives the owner's machine up for dead.
"""

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from spa3r.errors import Spa3RError

log = logging.getLogger(__name__)

_NO_LOCKS: Final = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def lock_of(folder: Path) -> Path:
    """The lock file of a folder, beside it: the folder itself stays as it is."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def locked_folder(folder: Path, error: type[Spa3RError]) -> Iterator[str]:
    """Holds a folder's lock while the block runs; yields the line that names this process there.

    Args:
        error: what to raise where another process holds it, or it cannot be made.
    """
    path = lock_of(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as cause:
        raise error(f"{path}: cannot be written ({cause.strerror}); name another place") from cause
    try:
        me = _take(descriptor, path, folder, error)
        try:
            yield me
        finally:
            os.ftruncate(descriptor, 0)  # nobody's
    finally:
        os.close(descriptor)


def owner_of(folder: Path) -> str:
    """The line that names who works on a folder; "" if nobody does."""
    path = lock_of(folder)
    return path.read_text().strip() if path.exists() else ""


def _take(descriptor: int, path: Path, folder: Path, error: type[Spa3RError]) -> str:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as cause:
        owner = path.read_text().strip() or "another process"
        raise error(
            f"{folder}: {owner} is writing there; wait until it has ended, then run again"
        ) from cause
    except OSError as cause:
        if cause.errno not in _NO_LOCKS:
            raise error(f"{path}: cannot be locked ({cause.strerror}); name another place") from (
                cause
            )
        log.warning("%s: its file system knows no locks; let one process at a time write", folder)
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    me = f"process {os.getpid()} on {socket.gethostname()}, since {since},"
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{me}\n".encode())
    os.fsync(descriptor)  # other machines read it
    return me

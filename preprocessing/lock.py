"""One ingest at a time writes into a folder: a second one is refused, not mixed in.

A local lock is the system's, which releases it with the process; S3's is in object_lock.py. Other
file systems have no lock.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.object_lock import locked_object
from spa3r.errors import ShardError
from spa3r.storage import filesystem, is_local


@contextmanager
def output_lock(out: str) -> Iterator[None]:
    """Held while a folder is written.

    Raises:
        ShardError: another process holds it, or it cannot be made.
    """
    fs, path = filesystem(out)
    if is_local(out):
        with _locked_file(out, Path(path)):
            yield
    elif "s3" in fs.protocol:
        with locked_object(fs, path, out):
            yield
    else:
        yield


@contextmanager
def _locked_file(out: str, folder: Path) -> Iterator[None]:
    path = folder.with_name(f".{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ShardError(f"{path}: cannot be written ({error.strerror}); name another place") from (
            error
        )
    try:
        _take(descriptor, out, path)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)  # nobody's
    finally:
        os.close(descriptor)


def _take(descriptor: int, out: str, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = path.read_text().strip() or "another process"
        raise ShardError(
            f"{out}: {owner} is writing there; wait until it has ended, then run again"
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

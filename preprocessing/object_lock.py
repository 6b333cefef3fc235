"""A lock on S3: an object made on condition that there is none, deleted at the end.

No server deletes the lock of a process that was killed. On the same machine the next one sees that
it is dead and takes the lock over; from elsewhere nobody can tell, and a person has to delete it.
"""

import errno
import json
import logging
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from spa3r.errors import ShardError

log = logging.getLogger(__name__)

_NOT_MET: Final = ("PreconditionFailed", "ConditionalRequestConflict")


@contextmanager
def locked_object(fs: Any, path: str, out: str) -> Iterator[None]:
    """Held while a folder is written.

    Args:
        fs: spa3r.storage's S3 file system.
        path: of the folder in it, bucket first.
        out: the folder's URL, for messages.

    Raises:
        ShardError: another process holds it, or it cannot be made.
    """
    parent, _, name = path.rstrip("/").rpartition("/")
    # Beside the folder as on disks; inside where the folder is a whole bucket.
    lock = f"{parent}/.{name}.lock" if parent else f"{name}/.lock"
    content = json.dumps(this_process()).encode()
    try:
        owner = _take(fs, lock, content)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            why = error.strerror or error
            raise ShardError(f"s3://{lock}: cannot be written ({why}); name another place") from (
                error
            )
        log.warning("%s: this server knows no locks; let one ingest at a time write there", out)
        owner = None
    if owner is not None:
        raise ShardError(
            f"{out}: {owner} is writing there; wait until it has ended, or if it is gone delete"
            f" s3://{lock}, then run again"
        )
    try:
        yield
    finally:
        _release(fs, lock, content)


def _take(fs: Any, lock: str, content: bytes) -> str | None:
    """None: it is ours now. Otherwise who holds it."""
    if _put(fs, lock, content, IfNoneMatch="*"):
        return None
    try:
        etag, there = fs.info(lock)["ETag"], fs.cat_file(lock, max_concurrency=1)
    except FileNotFoundError:  # let go this moment
        return None if _put(fs, lock, content, IfNoneMatch="*") else "another process"
    if there == content:  # the reply to our first try was lost, and a second one was made for us
        return None
    owner = _parsed(there)
    if _is_dead(owner) and _put(fs, lock, content, IfMatch=etag):
        log.info("s3://%s: taken over from a process that has ended", lock)
        return None
    if owner is None:
        return "another process"
    return f"process {owner['pid']} on {owner['host']}, since {owner['since']},"


def _put(fs: Any, lock: str, content: bytes, **condition: str) -> bool:
    """Whether the condition was met."""
    bucket, key, _ = fs.split_path(lock)
    try:
        fs.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)
    except OSError as error:
        reply = getattr(error.__cause__, "response", None) or {}
        if reply.get("Error", {}).get("Code") in _NOT_MET:
            return False
        raise
    return True


def _release(fs: Any, lock: str, content: bytes) -> None:
    """Deletes the lock if it is still ours: a person may have given it to another process."""
    try:
        if fs.exists(lock) and fs.cat_file(lock, max_concurrency=1) == content:
            fs.rm_file(lock)
    except OSError as error:
        log.warning("s3://%s: not released (%s); delete it", lock, error)


# --- owners ---------------------------------------------------------------------------------------


def this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": pid,
        "born": _born(pid),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": uuid.uuid4().hex,
    }


def _parsed(content: bytes) -> dict[str, Any] | None:
    """The owner that a lock names; None: it is damaged, or not one of ours."""
    try:
        owner = json.loads(content)
    except ValueError:
        return None
    if not isinstance(owner, dict) or set(owner) != set(this_process()):
        return None
    return owner if isinstance(owner["pid"], int) else None


def _is_dead(owner: dict[str, Any] | None) -> bool:
    """Whether the owner ran on this machine since it was started, and has ended."""
    if owner is None or not owner["machine"] or owner["machine"] != _machine():
        return False
    return _born(owner["pid"]) != owner["born"]


def _machine() -> str:
    """The running kernel and, for containers, the name space of process ids; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """When a process of this machine started, in ticks: ids are used again. None: it has ended."""
    try:
        # The name, in brackets, may hold anything; the rest are numbers, the 20th is the start.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else fields[18]

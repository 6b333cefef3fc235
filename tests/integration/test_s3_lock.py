"""One writer a folder on S3; a dead one loses its lock, where that can be known."""

import os

import pytest

from preprocessing.lock import output_lock
from preprocessing.object_lock import this_process
from spa3r import storage
from spa3r.errors import ShardError
from tests.s3_server import Gate, contents


def test_a_second_writer_is_refused_by_name(bucket: str):
    out = f"{bucket}/data/out"
    with output_lock(out):
        held = f"process {os.getpid()} on .*s3://.*/data/.out.lock, then run again"
        with pytest.raises(ShardError, match=held) as refused, output_lock(out):
            pytest.fail("both hold it")
        assert "\n" not in str(refused.value)
        with output_lock(f"{bucket}/data/other"):
            pass
    assert contents(bucket) == {}
    with output_lock(bucket):  # a whole bucket
        assert contents(bucket).keys() == {".lock"}


def test_errors_of_the_work_inside_are_not_the_locks(bucket: str):
    with pytest.raises(PermissionError), output_lock(f"{bucket}/out"):
        raise PermissionError
    assert contents(bucket) == {}


@pytest.mark.parametrize(
    ("change", "free"),
    [
        ({"pid": 2**22 + 1, "born": "1"}, True),  # no such process
        ({"born": "1"}, True),  # our number, but another process had it
        ({"pid": 2**22 + 1, "machine": "elsewhere"}, False),
        ({"pid": 2**22 + 1, "machine": ""}, False),
        ({}, False),
    ],
    ids=["dead", "number used again", "of another machine", "of an unknown machine", "alive"],
)
def test_only_a_dead_process_of_this_machine_loses_its_lock(
    bucket: str, change: dict[str, object], free: bool
):
    lock = f"{bucket}/.out.lock"
    storage.write_json(lock, this_process() | change)
    if free:
        with output_lock(f"{bucket}/out"):
            assert storage.read_json(lock)["pid"] == os.getpid()
        assert not storage.exists(lock)
        return
    before = storage.read_bytes(lock)
    refusal = r"is writing there.*delete s3://.*\.out\.lock"
    with pytest.raises(ShardError, match=refusal), output_lock(f"{bucket}/out"):
        pytest.fail("it was not ours to take")
    assert storage.read_bytes(lock) == before


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b'{"pid": 1}'])
def test_a_lock_that_is_none_of_ours_stays(bucket: str, content: bytes):
    storage.write_bytes(f"{bucket}/.out.lock", content)
    refusal = "another process is writing"
    with pytest.raises(ShardError, match=refusal), output_lock(f"{bucket}/out"):
        pytest.fail("it was not ours to take")


def test_a_lost_reply_does_not_lock_us_out(
    gate: Gate, bucket: str, quick_retries: None, monkeypatch: pytest.MonkeyPatch
):
    replies = iter(["lost"])
    monkeypatch.setattr(
        Gate, "fault", lambda self, asked, _: next(replies, None) if asked == "put" else None
    )
    with output_lock(f"{bucket}/out"):
        pass
    assert next(replies, None) is None
    assert contents(bucket) == {}

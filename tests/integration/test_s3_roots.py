"""A root on S3: what finding its scans costs, and what is said where nothing can be found."""

import time
from pathlib import Path

import pytest

from preprocessing.dataset import find_sources, ingest_dataset
from preprocessing.shards import Snapshot
from preprocessing.sources import detect_dataset
from preprocessing.standing import classify
from spa3r import storage
from spa3r.config import IngestSpec
from spa3r.errors import SceneError, ServiceError
from tests.integration.ingest_once import SPEC
from tests.ports import free_port
from tests.s3_server import Gate, use_s3


def test_raw_scans_cost_two_listings_each_many_at_a_time(gate: Gate, bucket: str):
    fs, path = storage.filesystem(bucket)
    names = [f"scene{number:04d}_00" for number in range(300)]
    keys = [f"{name}/{name}{end}" for name in names for end in (".sens", ".txt", "_2d-label.zip")]
    fs.pipe({f"{path}/raw/scans/{key}": b"1" for key in keys})
    storage.write_bytes(f"{bucket}/raw/scannetv2-labels.combined.tsv", b"id\tnyu40id\n1\t1\n")
    gate.seen.clear()
    gate.most.clear()
    dataset, sources = find_sources(f"{bucket}/raw", "")
    assert dataset == "scannet" and [source.name for source in sources] == names
    assert sources[7].fingerprint  # it has labels
    assert gate.seen["list"] <= 300 + 10 and gate.most["list"] > 3
    assert gate.seen["head"] + gate.seen["get"] < 20
    gate.most.clear()
    spec = IngestSpec()
    standings = list(classify(sources, Snapshot(f"{bucket}/out"), spec, dataset))
    assert [source for source, _ in standings] == sources
    assert all(s.state == "new" and s.signature and s.signature.files == 3 for _, s in standings)
    assert gate.seen["list"] <= 2 * 300 + 20 and gate.most["list"] > 3
    assert gate.seen["head"] + gate.seen["get"] < 20


# --- a server that is not there -------------------------------------------------------------------


@pytest.mark.parametrize("root", ["s3://nobody", "s3://nobody/raw"])
def test_a_server_that_is_not_there_is_one_line_at_once(root: str, tmp_path: Path):
    with use_s3(port := free_port()):
        start = time.monotonic()
        line = rf"^{root}: S3 at http://127.0.0.1:{port} cannot be reached .*AWS_ENDPOINT_URL_S3"
        with pytest.raises(ServiceError, match=line) as caught:
            ingest_dataset(root, "", SPEC, str(tmp_path / "out"))
        assert "\n" not in str(caught.value) and time.monotonic() - start < 40
        with pytest.raises(ServiceError, match="cannot be reached"):
            detect_dataset(root)


def test_no_credentials_are_one_line(gate: Gate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(ServiceError, match=r"^s3://b/raw: S3 .*credentials.*set AWS_ACCESS_KEY_ID"):
        detect_dataset("s3://b/raw")


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId"])
def test_credentials_that_are_not_taken_are_one_line(code: str):
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    from spa3r.s3 import plain_errors

    refused = ClientError({"Error": {"Code": code, "Message": "No\nmore."}}, "ListObjectsV2")
    with pytest.raises(ServiceError, match=f"{code}.* or log in again") as caught, plain_errors():
        raise translate_boto_error(refused)
    assert isinstance(caught.value, OSError) and "\n" not in str(caught.value)
    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "No."}}, "ListObjectsV2")
    with pytest.raises(PermissionError), plain_errors():
        raise translate_boto_error(denied)


def test_a_bucket_or_folder_that_is_not_there_is_said_so(bucket: str):
    storage.write_bytes(f"{bucket}/raw/1.txt", b"")
    for root in ("s3://no-such-bucket", "s3://no-such-bucket/raw", f"{bucket}/other"):
        with pytest.raises(SceneError, match=rf"^{root}: no such file or folder; check the path$"):
            detect_dataset(root)
    assert storage.exists(bucket)
    with pytest.raises(SceneError, match="neither ScanNet"):
        detect_dataset(bucket)


def test_a_server_that_goes_away_is_waited_for(gate: Gate, bucket: str):
    """What has answered once is taken to be there again soon."""
    from botocore.exceptions import EndpointConnectionError

    from spa3r.s3 import S3

    fs, _ = storage.filesystem(bucket)
    lost = EndpointConnectionError(endpoint_url="http://127.0.0.1:1")
    assert isinstance(fs, S3)
    assert storage.list_names(bucket) == []
    fs._judge(1)
    fs._judge(7, lost)  # not ended early
    fs._has_answered = False
    with pytest.raises(EndpointConnectionError):
        fs._judge(3, lost)

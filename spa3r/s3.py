"""S3 as this project uses it: one set of options, and errors that are OSErrors.

Imported only when an s3:// URL is met: s3fs is an optional dependency.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from aiohttp import ClientError as BrokenBody
from botocore.exceptions import BotoCoreError
from fsspec.asyn import sync_wrapper
from fsspec.config import conf
from s3fs import S3FileSystem

PROTOCOLS: Final = ("s3", "s3a")
# Standard mode waits longer each time, and gives up early where everything fails. Reading many
# small objects needs more connections than botocore's ten.
_CLIENT: Final = {
    "retries": {"mode": "standard", "total_max_attempts": 8},
    "max_pool_connections": 64,
}
_READ_AHEAD_BYTES: Final = 8 << 20  # fetched at a time by those who read files piece by piece


@contextmanager
def plain_errors() -> Iterator[None]:
    """Around requests. Raises OSError for what botocore and aiohttp raise of their own."""
    try:
        yield
    except (BotoCoreError, BrokenBody) as error:
        raise OSError(errno.EIO, " ".join(str(error).split())) from error


class S3(S3FileSystem):
    """s3fs that raises OSErrors only, also when a server is gone or no credentials are set."""

    async def _call_s3(self, method: str, *more: Any, **kwargs: Any) -> Any:
        with plain_errors():
            return await super()._call_s3(method, *more, **kwargs)

    call_s3 = sync_wrapper(_call_s3)

    async def _cat_file(self, path: str, *more: Any, **kwargs: Any) -> bytes:
        with plain_errors():
            return await super()._cat_file(path, *more, **kwargs)


def file_system() -> S3:
    """The one of this process. Endpoint, region and credentials are botocore's and fsspec's own.

    Listings are not kept: other processes write meanwhile. What FSSPEC_S3 says goes first.
    """
    client = {**_CLIENT, **conf.get("s3", {}).get("config_kwargs", {})}
    return S3(use_listings_cache=False, default_block_size=_READ_AHEAD_BYTES, config_kwargs=client)


def abort_uploads(fs: S3, path: str) -> int:
    """Ends the multipart uploads of files directly in a folder that were never completed.

    Raises:
        OSError: the server does not answer, or refuses to list uploads.
    """
    bucket, key, _ = fs.split_path(path)
    prefix = f"{key.rstrip('/')}/" if key else ""
    reply = cast(dict[str, Any], fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix))
    stale = [u for u in reply.get("Uploads", []) if "/" not in u["Key"].removeprefix(prefix)]
    for upload in stale:
        fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])
    return len(stale)

"""S3 as this project uses it: one set of options, and errors that are OSErrors of one line.

Imported only when an s3:// URL is met: s3fs is an optional dependency.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast
from urllib.parse import urlsplit

from aiohttp import ClientError as BrokenBody
from botocore import exceptions as boto
from fsspec.asyn import sync_wrapper
from fsspec.config import conf
from s3fs import S3FileSystem

from spa3r.errors import ServiceError

PROTOCOLS: Final = ("s3", "s3a")
# Standard mode waits longer each time, and gives up early where everything fails. Reading many
# small objects needs more connections than botocore's ten.
_CLIENT: Final = {
    "retries": {"mode": "standard", "total_max_attempts": 8},
    "max_pool_connections": 64,
}
_READ_AHEAD_BYTES: Final = 8 << 20  # fetched at a time by those who read files piece by piece


_NEW_SERVER_ATTEMPTS: Final = 3
"""Of a server that has never answered: a wrong address, most likely."""
_NOT_REACHED: Final = (
    boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError, boto.SSLError
)  # fmt: skip
_NO_CREDENTIALS: Final = (
    boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError,
    boto.TokenRetrievalError, boto.NoAuthTokenError, boto.ProfileNotFound, boto.SSOError,
)  # fmt: skip
_NOT_TAKEN: Final = {
    "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed",
    "SignatureDoesNotMatch", "TokenRefreshRequired",
    "400",  # all that a HEAD request tells of an expired token
}  # fmt: skip


class UnreachableError(ServiceError, OSError):
    """No server, or none that takes the credentials. An OSError, too: it may be there again soon.

    Where one scene of many is read, that is the scene's failure, and not for ever.
    """


@contextmanager
def plain_errors() -> Iterator[None]:
    """Around requests. Raises OSError for what botocore and aiohttp raise of their own."""
    try:
        yield
    except _NOT_REACHED as error:
        url = urlsplit(str(error.kwargs.get("endpoint_url") or error.kwargs.get("proxy_url")))
        raise UnreachableError(
            f"S3 at {url.scheme}://{url.netloc.rpartition('@')[2]} cannot be reached"
            f" ({_line(error)}); check AWS_ENDPOINT_URL_S3 and the network, or try again later"
        ) from error
    except _NO_CREDENTIALS as error:
        raise UnreachableError(_no_access(error)) from error
    except (boto.BotoCoreError, BrokenBody) as error:
        raise OSError(errno.EIO, _line(error)) from error
    except OSError as error:
        cause = error.__cause__
        if isinstance(cause, boto.ClientError) and cause.response["Error"]["Code"] in _NOT_TAKEN:
            raise UnreachableError(_no_access(cause)) from error
        raise


def _no_access(error: Exception) -> str:
    return (
        f"S3 has or takes no credentials ({_line(error)}); set AWS_ACCESS_KEY_ID and"
        " AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or log in again where they have expired"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


class S3(S3FileSystem):
    """s3fs that raises OSErrors only, also when a server is gone or no credentials are set."""

    _has_answered = False

    async def set_session(self, refresh: bool = False, kwargs: Any = None) -> Any:
        with plain_errors():
            client = await super().set_session(refresh, kwargs or {})
            client.meta.events.register_first("needs-retry.s3", self._judge, unique_id="spa3r")
            return client

    def _judge(self, attempts: int, caught_exception: Any = None, **_: Any) -> None:
        """Called before a request is sent again. Raises what it failed with to end that early."""
        if not isinstance(caught_exception, boto.EndpointConnectionError):
            self._has_answered = True
        elif not self._has_answered and attempts >= _NEW_SERVER_ATTEMPTS:
            raise caught_exception

    async def _call_s3(self, method: str, *more: Any, **kwargs: Any) -> Any:
        with plain_errors():
            return await super()._call_s3(method, *more, **kwargs)

    call_s3 = sync_wrapper(_call_s3)

    async def _exists(self, path: str) -> bool:
        bucket, key, _ = self.split_path(self._strip_protocol(path))
        if key or not bucket:
            return await super()._exists(path)
        try:  # s3fs takes a server that does not answer for a bucket that is not there
            await self._call_s3("head_bucket", Bucket=bucket)
        except FileNotFoundError:
            return False
        except PermissionError:  # a key may open one folder only
            return True
        return True

    exists = sync_wrapper(_exists)

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

"""Pages that this machine serves to itself: which address, and whose requests are answered.

Browsers let any web page send requests to loopback, and a foreign name may be made to resolve to
it. So a page of ours asks of every request which page it comes from and under which name.
"""

import contextlib
import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

from spa3r.errors import ConfigError, ServiceError

HOST: Final = "127.0.0.1"


def page_url(host: str, port: int) -> str:
    """Where a browser finds the page."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def own_name(asked: str, host: str) -> bool:
    """Whether the header Host names this server: on loopback, only names of loopback do.

    Args:
        asked: the header: name and port that were connected to.
        host: that the server listens on.
    """
    try:
        name = urlsplit(f"//{asked}").hostname or ""
    except ValueError:  # brackets that do not match
        return False
    return not is_loopback(host) or is_loopback(name)


def own_page(origin: str | None, asked: str, host: str) -> bool:
    """Whether a connection comes from a page of this server, or from no browser at all.

    Args:
        origin: the header that browsers send: scheme, name and port of the page.
        asked, host: as of `own_name`.
    """
    if origin is None:
        return True
    try:
        page = urlsplit(origin).netloc
    except ValueError:  # brackets that do not match
        return False
    # A foreign name that was made to resolve to loopback is no page of ours either.
    return page == asked and own_name(asked, host)


def is_loopback(name: str) -> bool:
    """Whether it is an address of this machine to itself, or the name of one."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        ConfigError: an impossible port.
        ServiceError: the address cannot be listened on; a free port is named.
    """
    if not 1 <= port <= 65535:
        raise ConfigError(f"a port is a number in 1..65535, got {port}")
    try:
        return _listen(host, port)
    except OSError as error:
        raise unusable(host, port, error.strerror or str(error)) from error


def unusable(host: str, port: int, reason: str) -> ServiceError:
    """The error of an address that cannot be had, with a port that can."""
    found = f"{host}:{port} cannot be listened on ({reason.lower()})"
    for other in range(port + 1, min(port + 100, 65536)):
        with contextlib.suppress(OSError):
            _listen(host, other).close()
            return ServiceError(f"{found}: port {other} is free, choose it (--port {other})")
    return ServiceError(f"{found}: choose another host or port (--host, --port)")


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind, protocol)
    try:
        # As a server does, so that connections of an earlier one that linger are no hindrance.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError:
        found.close()
        raise
    return found

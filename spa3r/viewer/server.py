"""The server behind the page: on loopback, for pages of its own only, never through a tunnel.

The page and all that it shows come from this process. viser's page can fetch from elsewhere in one
case, a decoder (gstatic.com) for meshes under Draco compression, and the viewer has no meshes.
"""

import contextlib
import io
import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

import viser
from viser.infra import WebsockClientConnection

from spa3r.errors import ConfigError, ServiceError

_POLICY_VIOLATION: Final = 1008  # of RFC 6455


def serve(host: str, port: int) -> viser.ViserServer:
    """An empty page at http://host:port.

    Raises:
        ConfigError: an impossible port.
        ServiceError: the address cannot be listened on; a free port is named.
    """
    if not 1 <= port <= 65535:
        raise ConfigError(f"a port is a number in 1..65535, got {port}")
    # viser would take the next port by itself, and never return where the host cannot be had.
    try:
        _listen(host, port)
    except OSError as error:
        raise _unusable(host, port, error.strerror or str(error)) from error
    with contextlib.redirect_stdout(io.StringIO()):  # its banner; the caller says where it is
        server = _Server(host=host, port=port, verbose=False)
    if server.get_port() != port:
        stop(server)
        raise _unusable(host, port, "address already in use")
    _refuse_other_pages(server, host)
    return server


def stop(server: viser.ViserServer) -> None:
    """Ends the server and frees its port."""
    with contextlib.redirect_stdout(io.StringIO()):
        server.stop()


class _Server(viser.ViserServer):
    """Never opens viser's public tunnel: any page that is connected could ask for it."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Refuses."""
        return None


def _refuse_other_pages(server: viser.ViserServer, host: str) -> None:
    """Browsers let any web page connect to loopback; viser does not ask which page it is."""
    sockets = server._websock_server

    async def check(client: WebsockClientConnection) -> None:
        connection = sockets._live_connections[client.client_id]
        headers = {} if connection.request is None else connection.request.headers
        if not own_page(headers.get("Origin"), headers.get("Host", ""), host):
            await connection.close(_POLICY_VIOLATION, "a page of another origin")

    sockets.on_client_connect(check)


def own_page(origin: str | None, asked: str, host: str) -> bool:
    """Whether a connection comes from a page of this server, or from no browser at all.

    Args:
        origin: the header that browsers send: scheme, name and port of the page.
        asked: the header Host: name and port that were connected to.
        host: that the server listens on.
    """
    if origin is None:
        return True
    if urlsplit(origin).netloc != asked:
        return False
    # A foreign name that was made to resolve to loopback is no page of ours either.
    return not _is_loopback(host) or _is_loopback(urlsplit(f"//{asked}").hostname or "")


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _listen(host: str, port: int) -> None:
    """Raises OSError where nobody could listen."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as s:
        # As a server does, so that connections of an earlier one that linger are no hindrance.
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(address)
        s.listen()


def _unusable(host: str, port: int, reason: str) -> ServiceError:
    found = f"{host}:{port} cannot be listened on ({reason.lower()})"
    for other in range(port + 1, min(port + 100, 65536)):
        with contextlib.suppress(OSError):
            _listen(host, other)
            return ServiceError(f"{found}: port {other} is free, choose it (--port {other})")
    return ServiceError(f"{found}: choose another host or port (--host, --port)")

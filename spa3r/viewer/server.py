"""The server behind the page: on loopback, for pages of its own only, never through a tunnel.

The page and all that it shows come from this process. viser's page can fetch from elsewhere in one
case, a decoder (gstatic.com) for meshes under Draco compression, and the viewer has no meshes.
"""

import contextlib
import io
from typing import Final

import viser
from viser.infra import WebsockClientConnection

from spa3r.loopback import listen, own_page, unusable

_POLICY_VIOLATION: Final = 1008  # of RFC 6455


def serve(host: str, port: int) -> viser.ViserServer:
    """An empty page at http://host:port.

    Raises:
        ConfigError: an impossible port.
        ServiceError: the address cannot be listened on; a free port is named.
    """
    # viser would take the next port by itself, and never return where the host cannot be had.
    listen(host, port).close()
    with contextlib.redirect_stdout(io.StringIO()):  # its banner; the caller says where it is
        server = _Server(host=host, port=port, verbose=False)
    if server.get_port() != port:
        stop(server)
        raise unusable(host, port, "address already in use")
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

"""A port of loopback that nothing listens on."""

import socket


def free_port() -> int:
    """Chosen by the system; nothing answers there until somebody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]

"""The port of the demo, taken before anything else is done, so that one that cannot be had is refused at once."""

from __future__ import annotations

import os
import socket

from otx.errors import UsageError

HOST = "127.0.0.1"


def take_port(port: int) -> socket.socket:
    """A socket that is bound to a port of this machine and does not listen yet; 0 takes a free port.

    Raises:
        UsageError: the port is taken, or there is no such port.
    """
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            # a port whose last connections are still fading may be taken; on Windows, this would take any port
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOST, port))
        # on Linux two sockets may be bound to a port until one of them listens
        taken.listen(0)
    except (OSError, OverflowError) as error:
        taken.close()
        reason = error.strerror if isinstance(error, OSError) else "must be from 0 to 65535"
        raise UsageError(f"--port {port}: {reason}", fix="leave --port out: a free one is taken") from error
    return taken

"""The port of the demo: taken before anything else, so that an error comes at once if it is not available."""

from __future__ import annotations

import os
import socket

from otx.errors import UsageError

HOST = "127.0.0.1"


def take_port(port: int) -> socket.socket:
    """A socket that is bound to a port of this machine; 0 takes a free port.

    Raises:
        UsageError: the port is taken, or there is no such port.
    """
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            # allow a port with old connections in TIME_WAIT; on Windows this would also take a port in use
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOST, port))
        # on Linux two sockets may be bound to a port until one of them listens, so listen at once
        taken.listen(0)
    except (OSError, OverflowError) as error:
        taken.close()
        reason = error.strerror if isinstance(error, OSError) else "must be from 0 to 65535"
        raise UsageError(f"--port {port}: {reason}", fix="leave --port out: a free one is taken") from error
    return taken

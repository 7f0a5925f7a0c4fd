"""The socket on which the browser's server listens: the same in the command, the tests and the benchmark."""

from __future__ import annotations

import socket


def listen(port: int = 0) -> socket.socket:
    """Bind a TCP socket on 127.0.0.1, so that no other machine can reach it.

    Args:
        port: 0 (the default) takes a free one; `getsockname()[1]` of the result says which.

    Returns:
        The bound socket, for `uvicorn.Server(…).run(sockets=[…])`. The caller closes it.

    Raises:
        OSError: the port cannot be used.

    >>> with listen() as listener:
    ...     listener.getsockname()[0]
    '127.0.0.1'
    """
    # The protocol must be named: a connection inherits it, and asyncio switches Nagle's algorithm off only where it
    # reads IPPROTO_TCP. Without that, an answer's body waits for the delayed acknowledgement of its head (40 ms).
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else "ports are 0 to 65535"
        raise OSError(f"port: {port} cannot be used ({reason}); give another, or 0 for a free one") from None
    return listener

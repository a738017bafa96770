"""Starting beside other servers and on a busy machine.

Where its server does not start on a port, gradio tries the next one with the same page, whose MCP server
starts only once: all others fail too. So the port is taken before anything starts, and a start may take its
time, for which gradio has 5 seconds.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gradio.exceptions import ServerFailedToStartError
from gradio.http_server import Server


@contextmanager
def patience() -> Iterator[None]:
    """Inside the block gradio waits for a server for as long as it is starting."""
    hasty, Server.run_in_thread = Server.run_in_thread, _run_in_thread
    try:
        yield
    finally:
        Server.run_in_thread = hasty


def _run_in_thread(server: Server) -> None:
    """As gradio's, but ended by the server alone.

    Raises:
        OSError: if another program has the port; gradio takes the next one.
        ServerFailedToStartError: if the server ends before it has started.
    """
    host, port = server.config.host, server.config.port
    taken = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    server.thread = threading.Thread(target=server.run, args=([taken],), daemon=True)
    if server.reloader:
        server.watch_thread = threading.Thread(target=server.watch, daemon=True)
        server.watch_thread.start()
    server.thread.start()
    while not server.started:
        if not server.thread.is_alive():
            raise ServerFailedToStartError(f"The server cannot start on port {port}.")
        time.sleep(0.001)

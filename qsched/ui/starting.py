"""Starting on a busy machine.

gradio gives its server 5 seconds to start and then tries the next port with the same page, whose MCP server
starts only once: after one slow start all others fail, for 100 ports.
"""

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
    """As gradio's, but ended by the server alone, whose thread dies where a port is taken."""
    server.thread = threading.Thread(target=server.run, daemon=True)
    if server.reloader:
        server.watch_thread = threading.Thread(target=server.watch, daemon=True)
        server.watch_thread.start()
    server.thread.start()
    while not server.started:
        if not server.thread.is_alive():
            raise ServerFailedToStartError(f"The server cannot start on port {server.config.port}.")
        time.sleep(0.001)

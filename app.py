"""Start the page: python app.py [--backbone ID] [--host HOST] [--port PORT] [--share] [--talk] [--offline]
[--source PATH_OR_ID] [--searches URL_OR_FILE]

Also the entry of a Hugging Face Space, which runs this file without arguments.
"""

import atexit
import contextlib
import io
import os
import shutil
import sys
import tempfile
import time

from qsched.commands.cli import Parser, UsageError
from qsched.commands.options import integer
from qsched.quiet import quiet
from qsched.server.heap import limit_heaps
from qsched.settings import BACKBONE

BEGIN = time.perf_counter()


def main(argv: list[str] | None = None) -> int:
    """Parse, load, serve until Ctrl+C.

    Returns the exit status: 0, or 2 after one line about what is wrong.
    """
    try:
        options = parser().parse_args(argv)
    except UsageError as error:
        return fail(error)
    quiet(options.offline)
    limit_heaps()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # with it no other host is even looked up
    keep_images_apart()
    if os.environ.get("SPACES_ZERO_GPU"):
        import spaces  # noqa: F401 - it has to see torch before anyone touches CUDA
    from qsched.hub.source import BackboneError
    from qsched.models.download import fetch_all
    from qsched.ui.page import build_app

    try:
        if os.environ.get("SPACE_ID") and not options.source:  # nobody is there who could press Download
            fetch_all(options.backbone)
        demo = build_app(
            options.backbone,
            source=options.source,
            device=options.device,
            talk=options.talk,
            searches=options.searches,
        )
        demo.engine.warm_up()
        with contextlib.redirect_stdout(
            io.StringIO()
        ):  # gradio prints the address of its MCP server, quiet or not
            _, url, public = demo.launch(
                server_name=options.host,
                server_port=options.port,
                share=options.share,
                quiet=True,
                mcp_server=True,
                prevent_thread_lock=True,
            )
    except (ValueError, OSError, BackboneError) as error:
        return fail(error)
    print(
        f"Q-Sched is ready on {public or url} after {time.perf_counter() - BEGIN:.1f} s. Ctrl+C stops it.",
        flush=True,
    )
    demo.block_thread()
    return 0


def fail(error: Exception) -> int:
    """Say in one line what is wrong; the exit status for it."""
    print(f"app.py: {str(error).strip().splitlines()[0]}", file=sys.stderr)
    return 2


def keep_images_apart() -> None:
    """Give this process a folder of images of its own, unless one is set: gradio names them by their content
    and removes its own when it ends, so that of two apps with one folder the first to end would take the
    other's away."""
    if "GRADIO_TEMP_DIR" not in os.environ:
        folder = os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="qsched-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def parser() -> Parser:
    """The command line."""
    options = Parser(prog="app.py", description="See, understand and use Q-Sched in the browser.")
    options.add_argument(
        "--backbone",
        default=os.environ.get("QSCHED_BACKBONE", BACKBONE.default),
        metavar="ID",
        help="what a first visitor sees (default: QSCHED_BACKBONE, else emoji-lcm, which ships with the app)",
    )
    options.add_argument(
        "--source",
        metavar="PATH_OR_ID",
        help="a local diffusers folder or another repository (ID@REVISION pins it) for that backbone",
    )
    options.add_argument("--device", default="auto", help="auto (cuda, then cpu), cpu or cuda")
    options.add_argument(
        "--host",
        default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        help="address to listen on; 0.0.0.0 is every network",
    )
    options.add_argument(
        "--port", type=integer(1, 65535), default=None, help="default: the first free one from 7860 on"
    )
    options.add_argument(
        "--searches",
        metavar="URL_OR_FILE",
        help="where searches are kept: a file, or an Optuna storage URL that machines share (default: "
        "searches.sqlite3 in "
        "your data folder)",
    )
    options.add_argument("--share", action="store_true", help="also make a public link (needs a network)")
    options.add_argument("--talk", action="store_true", help="for a stage: large type, a tour by arrow keys")
    options.add_argument("--offline", action="store_true", help="never ask the hub for anything")
    return options


if __name__ == "__main__":
    sys.exit(main())

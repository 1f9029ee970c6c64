"""A page to try a finished run: a title in, what tuned and base weights write side by side.

In: a run folder. Out: a page on this machine alone, until Ctrl-C. Texts appear while they are
written, and end as those of `predict` of that title alone. Nothing is written to the run folder,
and neither page nor server asks any other host for anything.

    python scripts/demo.py runs/quickstart
"""

import argparse
import os
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from demo_page import Page, build, look

from amazon_desc.describer import Describer
from amazon_desc.run.failures import errors_in_a_sentence
from amazon_desc.support.errors import UserError
from amazon_desc.support.printing import say

HOST = "127.0.0.1"


def import_gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            f"the page needs Gradio, which is not here ({error}). Install it: "
            f"pip install -e '.[demo]'"
        ) from error
    return gradio


def check_port(port: int) -> None:
    """Refuses a port that cannot be had, before a base is loaded."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--port {port}: wanted a free port of {HOST}, found: "
                f"{getattr(error, 'strerror', error)}. Give another one."
            ) from error


def launch(blocks: Any, port: int) -> None:
    blocks.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        ssr_mode=False,
        mcp_server=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        **look(),
    )
    say(f"Open http://{HOST}:{port} in a browser on this machine. Ctrl-C ends it.")


def wait_for_ctrl_c() -> None:
    with suppress(KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
        threading.Event().wait()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--port", type=int, default=7860, help="of 127.0.0.1; default: 7860")
    where = "who writes: a GPU if there is one (auto), cpu or gpu"
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help=where)
    options = parser.parse_args(arguments)
    with errors_in_a_sentence(["predict"], "python scripts/demo.py"):
        import_gradio()
        check_port(options.port)
        page = Page(Describer.from_run(options.run, accelerator=options.accelerator))
        launch(build(page, options.run), options.port)
    wait_for_ctrl_c()
    os._exit(0)  # nothing is to be saved; threads of the server would wait for open pages


if __name__ == "__main__":
    main()

"""A stand-in for ZeroGPU's spaces.GPU: a decorated function runs in a fresh forked process, data goes both
ways as pickles, and of an exception only the name of its class comes back.
"""

import multiprocessing
import pickle
import threading
from collections.abc import Callable

import gradio as gr


class Lender:
    """Lends a GPU; calls: the seconds asked for and the bytes sent, of each. refuses: no GPU is free.
    free: cleared, all wait for one.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.refuses = False
        self.free = threading.Event()
        self.free.set()

    def __call__(self, task: Callable, *, duration: Callable | None = None) -> Callable:
        def lent(*arguments):
            sent = pickle.dumps(arguments)
            self.calls.append((duration(*arguments), len(sent)))
            if self.refuses:
                raise gr.Error(
                    "<b>No GPU</b> is free: try again in a minute.", title="ZeroGPU quota exceeded"
                )
            assert self.free.wait(60)
            here, there = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.get_context("fork").Process(target=_work, args=(task, sent, there))
            process.start()
            there.close()
            try:
                answer = pickle.loads(here.recv_bytes())
            except EOFError:
                answer = "failed", "Killed"
            process.join()
            if answer[0] == "failed":
                raise gr.Error(answer[1], title="ZeroGPU worker error")
            return answer[1]

        return lent


def _work(task: Callable, sent: bytes, there) -> None:
    try:
        answer = "done", task(*pickle.loads(sent))
    except BaseException as error:
        answer = "failed", type(error).__name__
    there.send_bytes(pickle.dumps(answer))

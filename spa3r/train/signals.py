"""SIGTERM and Ctrl-C as a question that a run asks between two steps."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM or Ctrl-C sets while the block runs; a second one acts as before.

    Signals reach the main thread only: in another one the event stays unset.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    restore = listen(asked)
    try:
        yield asked
    finally:
        restore()


def listen(asked: threading.Event) -> Callable[[], None]:
    """Lets the next SIGTERM or Ctrl-C set the event; returns what undoes it. Main thread only."""
    both = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in both}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        restore()

    for number in both:
        signal.signal(number, ask)
    return restore

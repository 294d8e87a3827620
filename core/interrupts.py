"""Ctrl-C between steps, never amid one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_between_steps() -> Iterator[threading.Event]:
    """Hold a first Ctrl-C back as an event, since amid a step weights and optimizer do not match; a second one acts at once."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield interrupted
        return
    before = signal.getsignal(signal.SIGINT)

    def hold(*_) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, hold)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)

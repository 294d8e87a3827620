"""Ctrl-C between steps, never amid one, and with a word on how to go on."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


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
        logger.warning("stopping after this step; press Ctrl-C again to stop at once")

    signal.signal(signal.SIGINT, hold)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Have a Ctrl-C say where that is which is done, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"{str(stop) or 'stopped'}; what is done is in {folder}: run the same command again to go on") from None

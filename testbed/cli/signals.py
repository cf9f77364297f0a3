"""What ends a command from outside."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def termination_is_an_interrupt() -> Iterator[None]:
    """SIGTERM (`timeout`, batch systems) ends a run as Ctrl-C does: rows kept, status "interrupted"."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts = signal.getsignal(signal.SIGINT)
    if interrupts is signal.SIG_IGN:  # a script's background job; the event loop cancels cleanly only under Python's own handler
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupts)

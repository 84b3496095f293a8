"""Delays Ctrl-C and terminations until a step or a checkpoint is finished."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interruptions:
    """Calls the earlier signal handlers, which usually raise an exception, but only at points where a run can end.

    As a context manager it takes over SIGINT and SIGTERM, if Python handles them (in the main thread, with a function
    as handler), and gives them back at the end. A signal that arrived too late to end anything acts then.
    """

    def __init__(self) -> None:
        self.pending = 0
        self.held = False
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def __enter__(self) -> "Interruptions":
        self.pending, self.held = 0, False
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.held = True
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is None and self.pending:
            self.act(self.pending)
        self._handlers.clear()

    def hold(self) -> None:
        """Delay signals from here on, until `let_through` is entered."""
        self.held = True

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Let delayed signals act now, and others at once until the end of the block."""
        before, self.held = self.held, False
        try:
            if self.pending:
                self.act(self.pending)
            yield
        finally:
            self.held = before

    def act(self, number: int) -> None:
        """Call the handler of a signal, which may have arrived on another process."""
        self.pending = 0
        handler = self._handlers.get(number)
        if handler is None:
            raise SystemExit(128 + number)
        handler(number, None)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.pending = number
        if not self.held:
            self.act(number)

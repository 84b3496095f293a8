"""Ctrl-C and terminations, held back while a step or a checkpoint is unfinished."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interruptions:
    """Lets signals do what they did before, usually raise an exception, but only where a run can end.

    As a context manager it takes over SIGINT and SIGTERM, where Python handles them (in the main thread, and with a
    handler that is a function), and gives them back at the end. A signal that came too late for anything to be ended by
    it acts then.
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
        """From here on signals are noted, and act where `let_through` is entered."""
        self.held = True

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Lets signals act at once while this lasts, and those that were noted when it begins."""
        before, self.held = self.held, False
        try:
            if self.pending:
                self.act(self.pending)
            yield
        finally:
            self.held = before

    def act(self, number: int) -> None:
        """Do what a signal does, on whichever process it arrived."""
        self.pending = 0
        handler = self._handlers.get(number)
        if handler is None:
            raise SystemExit(128 + number)
        handler(number, None)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.pending = number
        if not self.held:
            self.act(number)

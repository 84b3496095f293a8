"""Runs cells in several processes, each after the one that it needs; a process that dies takes one cell with it."""

import multiprocessing
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from statistics import mean

import torch

from gloria.reproduce.cells import CELLS, Cell, read_cells

START = "spawn"  # a forked process would inherit the threads of torch, but not what they wait for
Work = Callable[[Cell], str]


def run_cells(cells: Sequence[Cell], out: Path, jobs: int, work: Work, tell: Callable[[str], None]) -> None:
    """Run the cells that have no figures yet, and note why others fail.

    Args:
        cells: each after the one that it names in `after`.
        out: folder of the suite.
        jobs: processes, of one thread each; 1 is this process, as it is.
        work: measures a cell, writes its figures and returns a line about them.
        tell: is told a line for each cell, with the time that is left.
    """
    waiting = [cell for cell in cells if not cell.is_done(out)]
    done = len(cells) - len(waiting)
    if done:
        tell(f"{done} of {len(cells)} cells are there already")
    slots = [_Slot(work, here=jobs == 1) for _ in range(jobs)]
    running: dict[Future[str], tuple[Cell, _Slot]] = {}
    failed: set[str] = set()
    try:
        while waiting or running:
            for cell in [each for each in waiting if each.after in failed]:
                waiting.remove(cell)
                failed.add(cell.name)
                cell.write_failure(out, f"{cell.after} failed")
            pending = {each.name for each in waiting} | {each.name for each, _ in running.values()}
            idle = [slot for slot in slots if slot not in [used for _, used in running.values()]]
            ready = [cell for cell in waiting if cell.after not in pending]
            for slot, cell in zip(idle, ready, strict=False):
                waiting.remove(cell)
                running[slot.start(cell)] = (cell, slot)
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                cell, slot = running.pop(future)
                done += 1
                try:
                    said = future.result()
                except Exception as error:
                    died = isinstance(error, BrokenProcessPool)
                    reason = "its process died" if died else f"{type(error).__name__}: {error}"
                    if died:
                        slot.renew()
                    failed.add(cell.name)
                    cell.write_failure(out, reason)
                    said = f"failed: {reason}"
                left = _minutes_left(waiting, len(running), out, jobs)
                tell(f"[{done}/{len(cells)}] {cell.title}: {said}{left}")
    finally:
        for slot in slots:
            slot.close()


class _Slot:
    """One process that runs a cell at a time; alone in its pool, so that its death breaks no other's."""

    def __init__(self, work: Work, here: bool) -> None:
        self.work, self.here = work, here
        self.pool: ProcessPoolExecutor | None = None

    def start(self, cell: Cell) -> "Future[str]":
        if self.here:
            future: Future[str] = Future()
            try:
                future.set_result(self.work(cell))
            except Exception as error:
                future.set_exception(error)
            return future
        if self.pool is None:
            context = multiprocessing.get_context(START)
            self.pool = ProcessPoolExecutor(1, context, initializer=_begin)
        return self.pool.submit(self.work, cell)

    def renew(self) -> None:
        self.close()
        self.pool = None

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Use one thread, and end with the process that started this one: else it would go on with its cell."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _minutes_left(waiting: Sequence[Cell], running: int, out: Path, jobs: int) -> str:
    """Return how long the rest takes if each cell takes as long as the done ones of its task, "" where none is left."""
    seconds: dict[tuple[str, float | None], list[float]] = defaultdict(list)
    for each in read_cells(out / CELLS).values():
        seconds[each["settings"]["task"], each["settings"]["fraction"]].append(each["seconds"])
    if not seconds or not (waiting or running):
        return ""
    usual = mean(mean(values) for values in seconds.values())
    expected = [mean(seconds.get((cell.task, cell.fraction), [usual])) for cell in waiting]
    return f"; about {(sum(expected) + running * usual / 2) / jobs / 60:.0f} min left"

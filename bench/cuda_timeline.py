"""What runs beside what in a kernel with products: clocks of an item, where many follow one another."""

from __future__ import annotations

from typing import NamedTuple


class Phase(NamedTuple):
    """Steps of a product and the code behind them.

    Clocks of a step's fetch for all groups of warps, of its product for one group, and of the parts of the code for
    one. `issued`: its steps, beside the code of the phase before: "between" any two parts of that, one each; all
    "before" it, once the groups have met; or, if empty, behind it. `meets`: the groups wait for each other behind it,
    and then take `behind` clocks each.
    """

    steps: int
    fetch: float
    product: float
    code: tuple[float, ...]
    issued: str = ""
    meets: bool = False
    behind: float = 0.0


def _of_group(phases: list[Phase], lockstep: bool, late: bool) -> list[tuple[str, float]]:
    """What a group does, one thing after the other, each with its clocks."""
    found: list[tuple[str, float]] = []
    entered = False

    def enter() -> None:
        nonlocal entered
        if lockstep and not entered:
            found.append(("meet", 0.0))
        entered = True

    def steps(count: int, product: float) -> None:
        nonlocal entered
        for _ in range(count):
            enter()
            found.append(("step", product))
            entered = False
            if late:
                enter()

    def meet() -> None:
        enter()
        found.append(("meet", 0.0))

    left = phases[0].steps
    for phase, after in zip(phases, [*phases[1:], phases[0]._replace(steps=0)], strict=True):
        steps(left, phase.product)
        found.append(("settle", 0.0))
        left = after.steps
        if after.issued == "before":
            meet()
            steps(left, after.product)
            left = 0
        for number, part in enumerate(phase.code):
            if number and left and after.issued == "between":
                steps(1, after.product)
                left -= 1
            found.append(("code", part))
        if phase.meets:
            meet()
            found.append(("code", phase.behind))
    enter()
    return found


def clocks_of_item(
    phases: list[Phase],
    groups: int,
    latency: float,
    stages: int = 3,
    ahead: int = 0,
    lockstep: bool = False,
    items: int = 40,
) -> float:
    """Clocks that an item takes among many.

    What all share does one thing after the other: the fetches, each into one of the `stages` once all groups have
    multiplied what was there; the products, first of the group that is ready first; the code. A group goes on when its
    last step but `ahead` is done. `lockstep`: all meet before each step; the first group makes it then, the
    others behind the code that comes before it.
    """
    fetches = [phase.fetch for phase in phases for _ in range(phase.steps)] * items
    streams = [iter(_of_group(phases * items, lockstep, late=lockstep and number > 0)) for number in range(groups)]
    coming = [next(stream, None) for stream in streams]
    there: list[float] = []
    done: list[list[float]] = [[] for _ in range(groups)]
    released: list[list[float]] = [[] for _ in range(groups)]
    ready = [0.0] * groups
    fetched = product = code = 0.0
    met: set[int] = set()
    while any(coming):
        while len(there) < min(len(fetches), min(map(len, released)) + stages):
            emptied = max(each[len(there) - stages] for each in released) if len(there) >= stages else 0.0
            fetched = max(fetched, emptied) + fetches[len(there)]
            there.append(fetched + latency)
        start = {}
        for group, what in enumerate(coming):
            if what is None or group in met:
                continue
            if what[0] != "step":
                start[group] = ready[group]
            elif len(done[group]) < len(there):
                start[group] = max(ready[group], there[len(done[group])])
        group = min(start, key=start.__getitem__)
        kind, clocks = coming[group] or ("", 0.0)
        ready[group] = start[group]
        if kind == "code":
            code = ready[group] = max(code, ready[group]) + clocks
        elif kind == "meet":
            met.add(group)
        else:
            if kind == "step":
                product = max(product, ready[group]) + clocks
                done[group].append(product)
            left = ahead if kind == "step" else 0
            while len(released[group]) < len(done[group]) - left:
                ready[group] = max(ready[group], done[group][len(released[group])])
                released[group].append(ready[group])
        if len(met) == groups:
            ready, met = [max(ready)] * groups, set()
        coming[group] = next(streams[group], None)
    return max(ready) / items

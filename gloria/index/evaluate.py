"""How well an index answers a table: Precision@K by class, Recall@K by pair, and what a search in two stages loses."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gloria.data import Row
from gloria.data.reports import text_id
from gloria.index.retriever import Retriever
from gloria.retrieval import BY, By, chance, hit_rate_of_ranked, labels_of, precision_of_ranked
from gloria_ops import TopK

KS = (5, 10, 100)


class Evaluation(NamedTuple):
    """Figures of a table's queries.

    table: for every way of ranking, and for each again in two stages where there are candidates: "P@<k>", the share of
        the k best with the query's label; "R@<k>", the share of queries whose own partner, or one of an equal report,
        is among the k best, as while training; in two stages "kept@<k>" too, the share of the k best of the exact
        search that are among its k best.
    chance: Precision@K of items in random order.
    queries: how many there are.
    paired: how many have such a partner in the index; "R@<k>" is about them, and left out where there is none.
    """

    table: dict[str, dict[str, float]]
    chance: float
    queries: int
    paired: int


def evaluate(
    retriever: Retriever,
    rows: Sequence[Row],
    ks: Sequence[int] = KS,
    *,
    by: Sequence[By] = BY,
    candidates: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Ask an index for the rows of a table: their reports where it holds images, their images where it holds texts.

    Items are relevant by `labels_of`: the label where all rows of both have one, else an equal report. A row's own
    partner counts among the relevant, as in the released evaluation.

    Args:
        retriever: of the index.
        rows: good ones.
        ks: those beyond the size of the index are left out.
        by: ways of ranking; the exact search is made once for each.
        candidates: evaluate the search in two stages beside the exact one.
        progress: show bars, on a terminal.

    Raises:
        ValueError: no k within the index; as `gloria.index.search`.
    """
    index = retriever.index
    ks = [k for k in ks if 1 <= k <= len(index)]
    if not ks:
        raise ValueError(f"ks has none of 1 to {len(index)}, the number of items of the index")
    items = index.rows(range(len(index)))
    labels = labels_of([*rows, *items])
    of_queries, of_items = labels[: len(rows)], labels[len(rows) :]
    reports = [text_id(row.report) for row in (*rows, *items)]
    present = set(reports[len(rows) :])
    paired = torch.tensor([report in present for report in reports[: len(rows)]])
    queries = [row.report if index.manifest.of == "images" else row.image for row in rows]

    def figures(found: TopK) -> dict[str, float]:
        relevant = _is_equal(of_queries, of_items, found.indices)
        own = _is_equal(reports[: len(rows)], reports[len(rows) :], found.indices)[paired]
        line = {f"P@{k}": precision_of_ranked(relevant, k) for k in ks}
        return line | ({f"R@{k}": hit_rate_of_ranked(own, k) for k in ks} if len(own) else {})

    table: dict[str, dict[str, float]] = {}
    for way in by:
        exact = retriever.search(queries, max(ks), by=way, progress=progress)
        table[way] = figures(exact)
        if candidates is not None:
            most = max(candidates, max(ks))
            found = retriever.search(queries, max(ks), by=way, candidates=most, progress=progress)
            kept = {f"kept@{k}": _share_kept(found.indices[:, :k], exact.indices[:, :k]) for k in ks}
            table[f"{way}, {most} candidates"] = figures(found) | kept
    return Evaluation(table, chance(of_queries, of_items), len(rows), int(paired.sum()))


def format_evaluation(found: Evaluation) -> str:
    """Return the figures as text, in percent."""
    names = list(dict.fromkeys(name for line in found.table.values() for name in line))
    width = max(map(len, found.table)) + 2
    lines = [f"{'ranked by':<{width}}" + "".join(f"{name:>10}" for name in names)]
    for way, values in found.table.items():
        cells = (f"{100 * values[name]:.1f}" if name in values else "-" for name in names)
        lines.append(f"{way:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join([*lines, f"precision by chance: {100 * found.chance:.1f}"])


def _is_equal(of_queries: Sequence[object], of_items: Sequence[object], numbers: Tensor) -> Tensor:
    """Return, as (Q, k) bool, whether query and item are equal; never where there is no item (-1)."""
    return torch.tensor(
        [
            [item >= 0 and of_items[item] == query for item in line]
            for query, line in zip(of_queries, numbers.tolist(), strict=True)
        ]
    )


def _share_kept(found: Tensor, exact: Tensor) -> float:
    return (exact[:, :, None] == found[:, None, :]).any(2).float().mean().item()

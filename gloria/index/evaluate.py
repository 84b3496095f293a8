"""Measures an index with the rows of a table: Precision@K by class, Recall@K by pair, and what two stages lose."""

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
    """Holds the figures of a table's queries.

    table: figures of every way of ranking, and with candidates again of each in two stages. "P@<k>" is the share of
        the k best with the query's label. "R@<k>" is the share of queries whose own partner, or one with an equal
        report, is among the k best, as while training. In two stages, "kept@<k>" is the share of the exact search's k
        best that are among the k best.
    chance: Precision@K of items in random order.
    queries: number of queries.
    paired: number of queries with a partner in the index; "R@<k>" counts these, and is left out if there are none.
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
    """Search an index for the rows of a table: by their reports if it holds images, by their images if it holds texts.

    `labels_of` says what is relevant: an equal label if all rows of both have one, else an equal report. A row's own
    partner counts as relevant, as in the released evaluation.

    Args:
        retriever: retriever of the index.
        rows: good rows.
        ks: values of K; those above the size of the index are left out.
        by: ways of ranking; each takes one exact search.
        candidates: number of candidates for a search in two stages, which is evaluated beside the exact one.
        progress: show progress bars, on a terminal.

    Raises:
        ValueError: no k in the range of the index; or as `gloria.index.search`.
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
    """Format the figures, in percent."""
    names = list(dict.fromkeys(name for line in found.table.values() for name in line))
    width = max(map(len, found.table)) + 2
    lines = [f"{'ranked by':<{width}}" + "".join(f"{name:>10}" for name in names)]
    for way, values in found.table.items():
        cells = (f"{100 * values[name]:.1f}" if name in values else "-" for name in names)
        lines.append(f"{way:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join([*lines, f"precision by chance: {100 * found.chance:.1f}"])


def _is_equal(of_queries: Sequence[object], of_items: Sequence[object], numbers: Tensor) -> Tensor:
    """Return whether query and item are equal, (Q, k) bool; False for no item (-1)."""
    return torch.tensor(
        [
            [item >= 0 and of_items[item] == query for item in line]
            for query, line in zip(of_queries, numbers.tolist(), strict=True)
        ]
    )


def _share_kept(found: Tensor, exact: Tensor) -> float:
    return (exact[:, :, None] == found[:, None, :]).any(2).float().mean().item()

"""`gloria retrieve`: searches a table by text or image, or measures Precision@K on it."""

from gloria.cli.common import (
    BatchSize,
    Most,
    Query,
    QueryImage,
    RankBy,
    Run,
    Table,
    good_rows,
    load_run,
    plain_errors,
    say,
    say_hits,
)
from gloria.encoding import check_text
from gloria.retrieval import format_precision, precision_table, similarities
from gloria.training.options import Cpu


def retrieve(
    run: Run,
    table: Table,
    query: Query = None,
    image: QueryImage = None,
    k: Most = 5,
    by: RankBy = "both",
    batch_size: BatchSize = 32,
    cpu: Cpu = False,
) -> None:
    """Find images of a table for a text, or reports for an image; with neither, measure Precision@K on the table."""
    with plain_errors():
        if query is not None and image is not None:
            raise ValueError("--query and --image are both given; choose one, or neither to measure Precision@K")
        check_text("--query", query)
        rows = good_rows(table, skip=True)
        model, processor = load_run(run, cpu)
        images = [row.image for row in rows] if image is None else [image]
        reports = [row.report for row in rows] if query is None else [query]
        found = similarities(model, processor, images, reports, batch_size, progress=True)
        if query is None and image is None:
            say(f"Precision@K in percent on {len(rows)} rows:")
            say(format_precision(precision_table(found, rows, sorted({1, 5, 10, 100, k}))))
            return
        best = found.by(by).flatten().topk(min(k, len(rows)))
    say_hits((score, rows[index]) for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True))

"""`gloria index build`, `gloria index search` and `gloria index evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

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
from gloria.data import read_table
from gloria.encoding import check_text
from gloria.index import EmbeddingIndex, Retriever, build_index, build_nearest
from gloria.index.evaluate import KS, format_evaluation
from gloria.index.evaluate import evaluate as evaluate_index
from gloria.lock import only_writer
from gloria.messages import counted
from gloria.retrieval import BY, By
from gloria.training.options import Cpu
from gloria_ops import ItemKind

Folder = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.")]
Candidates = Annotated[
    int | None, typer.Option(min=1, help="Search in two stages: FAISS finds so many, which are scored. Default: all.")
]
Verify = Annotated[bool, typer.Option(help="Compare the hash of every file, which reads all of the index once.")]
COLUMN: dict[ItemKind, str] = {"images": "image", "texts": "report"}
Dtype = Literal["float16", "bfloat16", "float32"]

app = typer.Typer(help="Index encoded images or reports on disk, and search them.", no_args_is_help=True)


@app.command()
def build(
    run: Run,
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Table with the column image or report.")],
    out: Annotated[Path, typer.Option(help="Folder of the index; one that was interrupted, or has grown, continues.")],
    of: Annotated[ItemKind, typer.Option(help="What to index: images, to be found by texts, or texts (the reports).")],
    dtype: Annotated[Dtype, typer.Option(help="In which regions and words are kept.")] = "float16",
    faiss: Annotated[
        str | None,
        typer.Option(
            help="Also make a FAISS index, for search in two stages, of this kind: Flat, HNSW32, IVF1024,Flat."
        ),
    ] = None,
    batch_size: BatchSize = 32,
    cpu: Cpu = False,
) -> None:
    """Encode the images or the reports of a table; bad rows are named and left out."""
    with plain_errors(), only_writer(out):
        rows = read_table(table, [COLUMN[of]])
        index = build_index(out, *load_run(run, cpu), rows, of, dtype=dtype, batch_size=batch_size, progress=True)
        for problem in index.manifest.bad:
            say(f"{table}, {problem}", err=True)
        if faiss is not None:
            index = build_nearest(index, faiss)
    size = sum(file.size for file in index.manifest.shards) / 2**20
    kind = f", FAISS {index.manifest.factory}" if index.manifest.factory else ""
    say(f"{out}: {len(index)} {of}, {counted(len(index.shards), 'shard')}, {size:.1f} MiB{kind}")
    if index.manifest.bad:
        say(f"left out {counted(len(index.manifest.bad), 'bad row')} of {index.manifest.rows}", err=True)


@app.command()
def search(
    run: Run,
    folder: Folder,
    query: Query = None,
    image: QueryImage = None,
    k: Most = 5,
    by: RankBy = "both",
    candidates: Candidates = None,
    verify: Verify = True,
    cpu: Cpu = False,
) -> None:
    """Find images of an index for a text, or reports for an image."""
    with plain_errors():
        index = EmbeddingIndex(folder, verify)
        asked: Any = query if index.manifest.of == "images" else image
        other, option = (image, "--query") if index.manifest.of == "images" else (query, "--image")
        if asked is None or other is not None:
            raise ValueError(f"{folder} holds {index.manifest.of}; expected {option}, and it alone")
        check_text("--query", query)
        hits: Sequence[Any] = Retriever(*load_run(run, cpu), index)(asked, k, by=by, candidates=candidates)
    say_hits((hit.score, hit.row) for hit in hits)


@app.command()
def evaluate(
    run: Run,
    folder: Folder,
    table: Table,
    k: Annotated[list[int] | None, typer.Option("--k", "-k", min=1, help="Once for each. Default: 5, 10, 100.")] = None,
    by: Annotated[By | None, typer.Option(help="What to rank by. Default: each of the three.")] = None,
    candidates: Candidates = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Queries that read the index together.")] = 32,
    verify: Verify = True,
    cpu: Cpu = False,
) -> None:
    """Ask an index for the rows of a table: Precision@K by class, Recall@K by pair, and what two stages lose."""
    with plain_errors():
        index = EmbeddingIndex(folder, verify)
        retriever = Retriever(*load_run(run, cpu), index, batch_size)
        rows = good_rows(table, skip=True)
        found = evaluate_index(retriever, rows, k or KS, by=[by] if by else BY, candidates=candidates, progress=True)
    asked = "reports" if index.manifest.of == "images" else "images"
    say(
        f"{found.queries} {asked} asked of {len(index)} {index.manifest.of}; {found.paired} have a partner in the "
        "index; in percent:"
    )
    say(format_evaluation(found))

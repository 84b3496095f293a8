"""The files that a table may be: CSV, JSON lines and Parquet, each read as records that know where they stand."""

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

FORMATS = (".csv", ".csv.gz", ".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Record:
    """One record of a file.

    Attributes:
        line: number of the line on which it starts, the first of the file being 1; of Parquet, of the row, likewise.
        cells: text by column, without blanks around it; "" where there is nothing.
        fault: what is wrong with the record itself, "" = nothing.
    """

    line: int
    cells: Mapping[str, str]
    fault: str = ""


def unit_of(path: Path) -> str:
    """What the number of a record counts: "line", or "row" of a format without lines."""
    return "row" if path.suffix == ".parquet" else "line"


def read_records(path: str | Path, required: Sequence[str]) -> Iterator[Record]:
    """Reads the records of a file, faulty ones included.

    Args:
        path: .csv (also .csv.gz: with a header, UTF-8, quoted as spreadsheets do it, line breaks within quotes
            included), .jsonl or .ndjson (an object a line, UTF-8) or .parquet.
        required: columns that must be there, each once; of JSON lines, in every record.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another format, no UTF-8, no valid file of its format, a required column missing or named twice.
        ImportError: Parquet, and pyarrow is not installed.
    """
    path = Path(path)
    if not path.name.endswith(FORMATS):
        raise ValueError(
            f"{path} is no table that can be read; expected a file that ends in one of {', '.join(FORMATS)}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a table with the columns {' and '.join(required)}")
    if path.suffix == ".parquet":
        return _parquet(path, required)
    if path.suffix in (".jsonl", ".ndjson"):
        return _json_lines(path, required)
    return _csv(path, required)


def write_records(path: str | Path, columns: Sequence[str], records: Sequence[Mapping[str, str]]) -> None:
    """Writes records in the format that the path ends in, with every column in every record.

    Raises:
        ValueError: another format.
        ImportError: Parquet, and pyarrow is not installed.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        arrow = _pyarrow(path)
        columnwise = {name: [record[name] for record in records] for name in columns}
        schema = arrow.schema([(name, arrow.string()) for name in columns])
        arrow.parquet.write_table(arrow.table(columnwise, schema=schema), path)
    elif path.suffix in (".jsonl", ".ndjson"):
        lines = (json.dumps({name: record[name] for name in columns}, ensure_ascii=False) for record in records)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(records)
    else:
        raise ValueError(f"{path} is no table that can be written; expected a name in .csv, .jsonl or .parquet")


def _csv(path: Path, required: Sequence[str]) -> Iterator[Record]:
    # The module csv and not pandas: only it tells the line on which a row of several lines starts.
    reader = csv.reader(StringIO(_decoded(path), newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            if not header and cells:
                header = [cell.strip() for cell in cells]
                _check_columns(path, header, required)
            elif len(cells) not in (0, len(header)):
                fault = f"{len(cells)} fields where the header has {len(header)}; quote fields that hold commas"
                yield Record(line, {}, fault)
            elif cells:
                yield Record(line, {name: cell.strip() for name, cell in zip(header, cells, strict=True)})
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {line}: no valid CSV ({error}); check the quotes of that row") from error


def _json_lines(path: Path, required: Sequence[str]) -> Iterator[Record]:
    # Not splitlines(), which takes characters for line breaks that JSON strings may hold as they are.
    for line, text in enumerate(_decoded(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            yield Record(line, {}, f"no valid JSON ({error.msg}, column {error.colno}); write one object a line")
            continue
        missing = [name for name in required if name not in given] if isinstance(given, dict) else list(required)
        if missing:
            yield Record(line, {}, f"no JSON object with {' and '.join(map(repr, missing))}")
        else:
            yield Record(line, {name: _text(value) for name, value in given.items()})


def _parquet(path: Path, required: Sequence[str]) -> Iterator[Record]:
    arrow = _pyarrow(path)
    try:
        file = arrow.parquet.ParquetFile(path)
        _check_columns(path, file.schema_arrow.names, required)
        line = 0
        for batch in file.iter_batches():
            for given in batch.to_pylist():
                line += 1
                yield Record(line, {name: _text(value) for name, value in given.items()})
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: no valid Parquet ({error}); write it anew") from error


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _decoded(path: Path) -> str:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); check that it is whole") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: no valid UTF-8 ({error.reason}); save the table as UTF-8") from error


def _check_columns(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    for name in required:
        if columns.count(name) != 1:
            raise ValueError(
                f"{path} has the columns {list(columns)}; expected one named {name!r} (required: {', '.join(required)})"
            )


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{path} is Parquet, which pyarrow reads and writes; pip install pyarrow") from error
    return pyarrow

"""Reads and writes tables: CSV, TSV, JSON lines and Parquet, as records that know their line."""

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gloria.data.cells import is_unicode, texts_of
from gloria.data.embedded import holds_files, unpack
from gloria.durable import write_whole
from gloria.messages import shown

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_PLURALS = {",": "commas", "\t": "tabs"}
_JSON_LINES = (".jsonl", ".ndjson")
_LINES = (*_DELIMITERS, *_JSON_LINES)
FORMATS = (*_LINES, *(f"{each}.gz" for each in _LINES), ".parquet")
# Most letters of a cell: the limit of the module csv on every platform.
_CELL = 2**31 - 1


@dataclass(frozen=True)
class Record:
    """Holds one record of a file.

    Attributes:
        line: number of the line on which it starts, counted from 1; in Parquet, number of the row.
        cells: text by column, without blanks around it; "" if the value is missing.
        fault: what is wrong with the record, "" = nothing.
        missing: words for missing values, such as "nan", by column. Their cells are "".
    """

    line: int
    cells: Mapping[str, str]
    fault: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)


def is_table(path: str | Path) -> bool:
    """Return whether a name has the ending of a table, in upper or lower case."""
    return Path(path).name.lower().endswith(FORMATS)


def unit_of(path: Path) -> str:
    """Return what the number of a record counts: "line", or "row" in a format without lines."""
    return "row" if _ending(path) == ".parquet" else "line"


def read_records(
    path: str | Path, required: Sequence[str], optional: Sequence[str] = (), files: Sequence[str] = ()
) -> Iterator[Record]:
    """Read the records of a file, faulty ones included.

    Args:
        path: ends in one of `FORMATS`, in upper or lower case. CSV and TSV have a header, and quotes as spreadsheets
            write them, with line breaks inside quotes; JSON lines have one object in each line; all of these are UTF-8.
        required: columns that must exist; in JSON lines, in every record.
        optional: columns that are read if they exist. All others are ignored.
        files: the columns that name files. If Parquet holds the files themselves, they are unpacked beside it, see
            `gloria.data.embedded.unpack`.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: another format, not UTF-8, a damaged file, a missing required column, a column that appears twice.
        ImportError: Parquet without pyarrow.
        OSError: files cannot be unpacked.
    """
    path = Path(path)
    if not is_table(path):
        raise ValueError(f"{path} is not a table; expected a file that ends in one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a table with the columns {' and '.join(required)}")
    if _ending(path) == ".parquet":
        return _read_parquet(path, required, optional, files)
    if _ending(path) in _JSON_LINES:
        return _read_json_lines(path, required, optional)
    return _read_separated(path, required, optional)


def write_records(path: str | Path, columns: Sequence[str], records: Sequence[Mapping[str, str]]) -> None:
    """Write records in the format of the path's ending, with every column in every record, see `write_whole`.

    Raises:
        ValueError: another format; a text that is not valid Unicode.
        ImportError: Parquet without pyarrow.
        DiskFullError: no space is left.
    """
    path = Path(path)
    if not is_table(path):
        raise ValueError(f"{path} cannot be written; expected a name that ends in one of {', '.join(FORMATS)}")
    for number, record in enumerate(records, 1):
        for name in columns:
            if not is_unicode(record[name]):
                raise ValueError(f"{path}: {name} of row {number} is {shown(record[name])}, which is not valid Unicode")

    def write(partial: Path) -> None:
        if _ending(path) == ".parquet":
            arrow = _import_pyarrow(path)
            columnwise = {name: [record[name] for record in records] for name in columns}
            schema = arrow.schema([(name, arrow.string()) for name in columns])
            arrow.parquet.write_table(arrow.table(columnwise, schema=schema), partial)
        else:
            with _opener(path)(partial, "wt", newline="", encoding="utf-8") as file:
                _write_lines(file, _ending(path), columns, records)

    write_whole(path, write)


def _write_lines(file: IO[str], ending: str, columns: Sequence[str], records: Sequence[Mapping[str, str]]) -> None:
    if ending in _JSON_LINES:
        for record in records:
            file.write(json.dumps({name: record[name] for name in columns}, ensure_ascii=False) + "\n")
    else:
        writer = csv.DictWriter(file, columns, delimiter=_DELIMITERS[ending])
        writer.writeheader()
        writer.writerows(records)


def _read_separated(path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Record]:
    # The module csv and not pandas: only csv tells on which line a row of several lines starts.
    csv.field_size_limit(max(csv.field_size_limit(), _CELL))
    delimiter = _DELIMITERS[_ending(path)]
    reader = csv.reader(_read_lines(path, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    wanted: list[str] = []
    line = 1
    try:
        for cells in reader:
            if not header and cells:
                header = [cell.strip() for cell in cells]
                wanted = _columns_to_read(path, header, required, optional)
            elif len(cells) not in (0, len(header)):
                fault = f"{len(cells)} fields where the header has {len(header)}; quote fields that hold "
                fault += _PLURALS[delimiter]
                yield Record(line, {}, fault)
            elif cells:
                row = dict(zip(header, cells, strict=True))
                yield _record(line, {name: row[name] for name in wanted})
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {line}: not valid CSV ({error}); check the quotes of that row") from error


def _read_json_lines(path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Record]:
    # JSON strings may hold other characters that Unicode counts as line breaks.
    for line, text in enumerate(_read_lines(path, newline="\n"), 1):
        if not text.strip():
            continue
        try:
            given = json.loads(text.rstrip(), object_pairs_hook=_JsonObject)
        except json.JSONDecodeError as error:
            yield Record(line, {}, f"not valid JSON ({error.msg}, column {error.colno}); write one object a line")
            continue
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
            yield Record(line, {}, f"JSON that cannot be read ({error}); write one object of texts a line")
            continue
        missing = [name for name in required if name not in given] if isinstance(given, _JsonObject) else list(required)
        if missing:
            yield Record(line, {}, f"no JSON object with {' and '.join(map(repr, missing))}")
            continue
        wanted = [name for name in (*required, *optional) if name in given]
        twice = [name for name in wanted if name in given.twice]
        if twice:
            yield Record(line, {}, f"{' and '.join(map(repr, twice))} appears twice; write each name once")
        else:
            yield _record(line, {name: given[name] for name in wanted})


class _JsonObject(dict[str, Any]):
    """Holds a JSON object, and the names that appear twice in it."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.twice = {name for name, count in Counter(name for name, _ in pairs).items() if count > 1}


def _read_parquet(
    path: Path, required: Sequence[str], optional: Sequence[str], files: Sequence[str]
) -> Iterator[Record]:
    arrow = _import_pyarrow(path)
    try:
        file = arrow.parquet.ParquetFile(path)
        schema = file.schema_arrow
        wanted = _columns_to_read(path, schema.names, required, optional)
        within = [name for name in wanted if name in files and holds_files(schema.field(name).type)]
        unpacked = {name: unpack(path, name) for name in within}
        line = 0
        for batch in file.iter_batches(columns=[name for name in wanted if name not in within]):
            columns = {name: _column_values(batch.column(name)) for name in batch.schema.names}
            for row in range(batch.num_rows):
                cells: dict[str, Any] = {name: unpacked[name][line] for name in within}
                cells |= {name: values[row] for name, values in columns.items()}
                line += 1
                yield _record(line, {name: cells[name] for name in wanted})
    # On damaged files pyarrow also raises errors of Python; IndexError: columns of different lengths.
    except (arrow.ArrowException, OSError, UnicodeDecodeError, KeyError, IndexError, OverflowError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # an error of the disk, not of the content
        raise ValueError(f"{path}: not valid Parquet ({error}); write it again") from error


def _column_values(column: Any) -> list[Any]:
    from pyarrow import types

    if types.is_temporal(column.type):
        column = column.cast("string")  # Python's own types have no nanoseconds
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:  # read as bytes, so that the message can name the cell
        return list(column.cast("binary").to_pylist())


def _record(line: int, values: Mapping[str, Any]) -> Record:
    """Make the record of any format: all cells become text here."""
    try:
        cells, missing = texts_of(values)
    except ValueError as error:
        return Record(line, {}, str(error))
    return Record(line, cells, missing=missing)


def _read_lines(path: Path, newline: str) -> Iterator[str]:
    try:
        try:
            with _opener(path)(path, "rt", newline=newline, encoding="utf-8-sig") as file:
                yield from file
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {_first_undecodable_line(path)}: not valid UTF-8 ({error.reason}); save the table "
                "as UTF-8"
            ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}); check that it is whole") from error


def _first_undecodable_line(path: Path) -> int:
    """Return the number of the first line that is not UTF-8, which decoding in large blocks does not tell."""
    with _opener(path)(path, "rb") as file:
        lines = enumerate(file, 1)
        return next((number for number, line in lines if line.decode(errors="ignore").encode() != line), 0)


def _opener(path: Path) -> Any:
    return gzip.open if path.name.lower().endswith(".gz") else open


def _ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _columns_to_read(path: Path, columns: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> list[str]:
    """Return the columns to read, after checking that each appears once."""
    for name in (*required, *optional):
        count = columns.count(name)
        if count > 1 or (count == 0 and name in required):
            raise ValueError(
                f"{path} has the columns {shown(list(columns))}; expected one named {name!r}"
                + (f" (required: {', '.join(required)})" if name in required else ", not several")
            )
    return [name for name in (*required, *optional) if name in columns]


def _import_pyarrow(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{path} is Parquet, which pyarrow reads and writes; pip install pyarrow") from error
    return pyarrow

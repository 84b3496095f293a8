"""Writes shards, tar files of images with their reports in WebDataset's layout, and reads them as a stream."""

import io
import json
import random
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info
from tqdm import tqdm

from gloria.data.cells import is_unicode
from gloria.data.pairs import BadFiles, check_choices, pair, report_unreadable
from gloria.data.reports import Text
from gloria.data.table import Row
from gloria.durable import write_json
from gloria.images import to_rgb
from gloria.messages import shown
from gloria.processing import GloriaProcessor

INDEX = "shards.json"


def write_shards(
    rows: Sequence[Row],
    folder: str | Path,
    shards: int = 16,
    longest_side: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Path]:
    """Write rows in random order as tar files, whose numbers of rows differ by one at most.

    A row becomes two members with one stem: the unchanged image file (or, with `longest_side`, a PNG), and a .json with
    report, patient, label and line. shards.json counts the rows of each shard; it is written last, so a folder without
    it is unfinished.

    Args:
        rows: good rows, see `gloria.data.find_problems`.
        folder: created if it is missing.
        shards: number of files, and the most readers (ranks times workers) that can share them.
        longest_side: shrink images whose longer side has more pixels; None leaves files unchanged.
        seed: seed of the order.
        progress: show a progress bar, on a terminal.

    Returns:
        The shards' paths.

    Raises:
        ValueError: fewer rows than shards; a folder that already holds shards; an unreadable image.
    """
    folder = Path(folder)
    if not 1 <= shards <= len(rows):
        raise ValueError(f"shards is {shards}; expected 1 to the number of rows, {len(rows)}")
    if longest_side is not None and longest_side < 1:
        raise ValueError(f"longest_side is {longest_side}; expected at least 1 pixel")
    if folder.is_dir() and any(folder.glob("*.tar")):
        raise ValueError(f"{folder} already holds shards; remove them, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    paths, counts = [], []
    with tqdm(total=len(rows), desc="writing shards", unit="row", disable=None if progress else True) as bar:
        for number in range(shards):
            paths.append(folder / f"{number:06d}.tar")
            chosen = order[number::shards]
            with tarfile.open(paths[-1], "w") as tar:
                for index in chosen:
                    _add_row(tar, f"{index:09d}", rows[index], longest_side)
                    bar.update()
            counts.append(len(chosen))
    listing = {path.name: count for path, count in zip(paths, counts, strict=True)}
    write_json(folder / INDEX, listing)
    return paths


class ShardDataset(IterableDataset):
    """Streams the pairs of a folder of shards, shuffled for each epoch, as items like those of `TableDataset`.

    Ranks and workers divide the shards among them, so none is read twice. Every rank gets the same number of items an
    epoch, and every worker as many as its counterparts on other ranks, even if files are unreadable: ranks that end at
    different steps would wait for each other forever. If shards differ in size, each epoch skips some rows for this.

    Args:
        folder: folder of `write_shards`.
        processor: makes the pixels.
        text: part of a report to read, see `gloria.data.reports.text_to_read`.
        group_equal_texts: give equal texts the same id.
        bad_files: what to do with unreadable images and shards: "replace" warns and goes on, "refuse" raises.
        buffer: pairs in memory, as files, from which the next is drawn; 1 keeps the order of the shards.
        seed: seed of the order.
        rank: rank of this process. Leave 0 of 1 if something else divides the stream, such as a DataLoader prepared by
            accelerate: every process then reads all of it, or the first one reads for all.
        ranks: number of processes that share the shards.

    Attributes:
        rows: number of pairs in all shards.

    Raises:
        FileNotFoundError: no finished shards in the folder.
        ValueError: an invalid rank or buffer; more ranks than shards.
    """

    def __init__(
        self,
        folder: str | Path,
        processor: GloriaProcessor,
        text: Text = "report",
        group_equal_texts: bool = True,
        bad_files: BadFiles = "replace",
        buffer: int = 1000,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        check_choices(text, bad_files)
        self.folder = Path(folder)
        self.counts = _read_counts(self.folder)
        self.rows = sum(self.counts.values())
        self.image_processor = processor.image_processor
        self.text, self.group_equal_texts, self.bad_files = text, group_equal_texts, bad_files
        self.buffer, self.seed, self.rank, self.ranks, self.epoch = buffer, seed, rank, ranks, 0
        if not 0 <= rank < ranks or buffer < 1:
            raise ValueError(
                f"rank is {rank} of {ranks} and buffer {buffer}; expected 0 <= rank < ranks and a buffer of at least 1"
            )
        self._check_readers(1)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, the same on every rank. Trainer calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the items of one rank in an epoch if one process reads them; workers may give a few less."""
        return self._item_count(0, 1)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield pixel_values (3, H, W) float32, report, line, and report_id if ids are asked for.

        Raises:
            ValueError: more readers than shards; an unreadable file, with `bad_files` "refuse"; no readable file.
        """
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        self._check_readers(workers)
        yield from islice(self._endless_items(worker, workers), self._item_count(worker, workers))

    def _check_readers(self, workers: int) -> None:
        if self.ranks * workers > len(self.counts):
            raise ValueError(
                f"{self.ranks} ranks with {workers} workers are more than the {len(self.counts)} shards in "
                f"{self.folder}; use fewer workers, or write more shards (gloria shards --shards N)"
            )

    def _shards_of(self, rank: int, worker: int, workers: int) -> list[str]:
        return sorted(self.counts)[rank * workers + worker :: self.ranks * workers]

    def _item_count(self, worker: int, workers: int) -> int:
        """Return the number of a worker's items: the least that this worker's shards hold on any rank."""
        ranks = range(self.ranks)
        return min(sum(self.counts[name] for name in self._shards_of(rank, worker, workers)) for rank in ranks)

    def _endless_items(self, worker: int, workers: int) -> Iterator[dict[str, Any]]:
        """Yield the worker's pairs again and again: bad files may leave one pass short of its number of items."""
        names = self._shards_of(self.rank, worker, workers)
        for again in range(self.rows + 1):
            order = random.Random(f"{self.seed} {self.epoch} {self.rank} {worker} {again}")
            given = 0
            for item in self._decode(_shuffled(self._samples(order.sample(names, len(names))), self.buffer, order)):
                given += 1
                yield item
            if not given:
                raise ValueError(f"nothing in the shards {', '.join(names)} of {self.folder} can be read")

    def _samples(self, names: Sequence[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield the members of each pair by suffix, with the pair's place for messages."""
        for name in names:
            path = self.folder / name
            try:
                with tarfile.open(path, "r|") as tar:
                    for stem, members in groupby(tar, lambda member: member.name.partition(".")[0]):
                        sample = {
                            member.name.partition(".")[2]: file.read()
                            for member in members
                            if member.isfile() and (file := tar.extractfile(member))
                        }
                        yield f"{path}, {stem}", sample
            # Headers of a damaged file may hold invalid numbers and names.
            except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
                report_unreadable(f"{path} cannot be read to its end ({error})", self.bad_files)

    def _decode(self, samples: Iterable[tuple[str, dict[str, bytes]]]) -> Iterator[dict[str, Any]]:
        for place, members in samples:
            try:
                suffix, report, line = _parse_members(members)
            except ValueError as error:
                report_unreadable(f"{place}: {error}", self.bad_files)
                continue
            file = io.BytesIO(members[suffix])
            file.name = f"{place}.{suffix}"
            try:
                pixels = self.image_processor.to_pixels(self.image_processor.frame(file))
            except (OSError, ValueError, TypeError) as error:
                report_unreadable(str(error), self.bad_files)
                continue
            yield pair(torch.from_numpy(pixels), report, line, self.text, self.group_equal_texts)


def _parse_members(members: Mapping[str, bytes]) -> tuple[str, str, int]:
    """Return the suffix of a row's image, its report and its line.

    Raises:
        ValueError: members that differ from what `write_shards` writes.
    """
    suffixes = [suffix for suffix in members if suffix != "json"]
    if "json" not in members or len(suffixes) != 1:
        raise ValueError(f"the members are {shown(list(members))}; expected a .json and one image")
    try:
        about = json.loads(members["json"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the .json is not valid ({error})") from None
    if not isinstance(about, dict):
        raise ValueError(f"the .json holds {shown(about)}; expected an object with report and line")
    report, line = about.get("report"), about.get("line")
    if not isinstance(report, str) or not report.strip() or not is_unicode(report):
        raise ValueError(f"the report is {shown(report)}; expected text")
    if not isinstance(line, int) or isinstance(line, bool) or not 0 <= line < 2**63:
        raise ValueError(f"the line is {shown(line)}; expected the number of a line")
    return suffixes[0], report, line


def _read_counts(folder: Path) -> dict[str, int]:
    path = folder / INDEX
    try:
        counts = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); write the shards again") from error
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder} holds no finished shards; expected {INDEX} beside them, as `gloria shards` writes it at its end"
        ) from None
    if (
        not isinstance(counts, dict)
        or not counts
        or any(type(count) is not int or count < 1 for count in counts.values())
    ):
        raise ValueError(f"{path} holds {shown(counts)}; expected the number of rows of each shard, 1 or more")
    return counts


def _shuffled(samples: Iterable[Any], size: int, order: random.Random) -> Iterator[Any]:
    """Yield the samples, each drawn from `size` samples in memory."""
    held: list[Any] = []
    for sample in samples:
        held.append(sample)
        if len(held) >= size:
            yield _pop_random(held, order)
    while held:
        yield _pop_random(held, order)


def _pop_random(held: list[Any], order: random.Random) -> Any:
    at = order.randrange(len(held))
    held[at], held[-1] = held[-1], held[at]
    return held.pop()


def _add_row(tar: tarfile.TarFile, stem: str, row: Row, longest_side: int | None) -> None:
    if row.image is None:
        raise ValueError(f"{row.where}: the image is not named")
    image, suffix = row.image.read_bytes(), row.image.suffix.lower().lstrip(".")
    if longest_side is not None:
        image, suffix = _shrunk_png(row.image, longest_side), "png"
    about = {"report": row.report, "patient": row.patient, "label": row.label, "line": row.line}
    for name, data in ((suffix, image), ("json", json.dumps(about, ensure_ascii=False).encode())):
        member = tarfile.TarInfo(f"{stem}.{name}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def _shrunk_png(path: Path, longest_side: int) -> bytes:
    image = to_rgb(path)
    red, green, blue = image.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        image = red
    image.thumbnail((longest_side, longest_side), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()

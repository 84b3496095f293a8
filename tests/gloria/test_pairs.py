"""Training sets from tables and from shards: the same items, every row once, and no bad file ends a run."""

import io
import json
import os
import tarfile
import time
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from gloria import GloriaImageProcessor, GloriaModel
from gloria.data import PixelCache, Row, ShardDataset, TableDataset, write_shards
from gloria.training import PairCollator


@pytest.fixture
def rows(tmp_path, picture_file):
    made = []
    for number in range(11):
        path = tmp_path / "images" / f"{number}.png"
        picture_file(path, number)
        made.append(Row(number + 2, path, f"Report {number} here. No effusion.", f"p{number}", label="x"))
    return made


@pytest.fixture
def shards(tmp_path, rows):
    write_shards(rows, tmp_path / "shards", shards=4)
    return tmp_path / "shards"


def reports_of(items):
    return [item["report"] for item in items]


def test_an_item_is_a_row_as_the_processor_sees_it(rows, processor):
    dataset = TableDataset(rows, processor, group_equal_texts=False)
    assert len(dataset) == 11
    for index in (0, 10):
        item = dataset[index]
        assert item.keys() == {"pixel_values", "report", "line"}
        assert torch.equal(item["pixel_values"], processor(images=rows[index].image)["pixel_values"][0])
        assert (item["report"], item["line"]) == (rows[index].report, rows[index].line)
    assert item["pixel_values"].dtype == torch.float32


def test_equal_texts_have_equal_ids(rows, processor):
    twice = [rows[0], Row(9, rows[1].image, "REPORT 0 here.  no effusion."), rows[2]]
    items = [TableDataset(twice, processor)[index] for index in range(3)]
    assert items[0]["report_id"] == items[1]["report_id"] != items[2]["report_id"]
    batch = PairCollator(processor)(items)
    assert batch["report_ids"].dtype == torch.int64


def test_sentences_are_drawn_with_their_own_ids(rows, processor):
    dataset = TableDataset(rows, processor, text="sentence")
    items = [dataset[0] for _ in range(20)]
    assert set(reports_of(items)) == {"report 0 here", "no effusion"}
    assert len({item["report_id"] for item in items}) == 2


def test_a_file_that_breaks_during_training_is_named_and_replaced(rows, processor):
    dataset = TableDataset(rows, processor)
    assert dataset[10]["report"].startswith("Report 10 ")
    rows[10].image.write_bytes(rows[10].image.read_bytes()[:60])
    rows[0].image.unlink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        items = [dataset[10] for _ in range(3)]
    assert {item["report"] for item in items} == {rows[1].report}  # the next that can be read
    told = [str(warning.message) for warning in caught]
    assert len(told) == 2, told  # once for each file, not at each reading
    assert "line 12: " in told[0]
    assert "10.png cannot be read as an image" in told[0]
    assert told[0].endswith("another pair takes its place")
    refusing = TableDataset(rows, processor, bad_files="refuse")
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"line 2: .*0\.png cannot be read .*bad_files='replace'"):
            list(DataLoader(refusing, num_workers=workers, collate_fn=PairCollator(processor)))


@pytest.mark.filterwarnings("ignore:line")
def test_a_disk_that_is_gone_is_no_endless_search(rows, processor):
    for row in rows:
        row.image.unlink()
    with pytest.raises(ValueError, match="none of the 11 images can be read; check that the disk is there"):
        TableDataset(rows, processor)[3]


def test_impossible_choices_are_named(rows, shards, processor):
    with pytest.raises(ValueError, match="text is 'words'; expected one of 'report', 'sentences', 'sentence'"):
        TableDataset(rows, processor, text="words")
    with pytest.raises(ValueError, match="bad_files is 'skip'; expected one of 'replace', 'refuse'"):
        ShardDataset(shards, processor, bad_files="skip")


def test_cached_pixels_are_the_same_bit_for_bit(tmp_path, rows, processor):
    colors = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    Image.fromarray(colors).save(rows[1].image)
    plain, cached = TableDataset(rows, processor), TableDataset(rows, processor, cache=tmp_path / "cache")
    for _ in range(2):
        for index in range(len(rows)):
            assert torch.equal(plain[index]["pixel_values"], cached[index]["pixel_values"])
    kept = sorted((tmp_path / "cache").rglob("*.npy"))
    assert len(kept) == len(rows)
    assert sorted({np.load(path).shape for path in kept}) == [(64, 64, 1), (64, 64, 3)]
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_cached_pixels_follow_the_file_and_the_settings(tmp_path, rows, processor, picture_file):
    cache = PixelCache(tmp_path / "cache", processor.image_processor)
    first, path = cache(rows[0].image).copy(), rows[0].image
    decoded = []
    cache.image_processor = type("", (), {**vars(processor.image_processor), "frame": decoded.append})()
    assert np.array_equal(cache(path), first)
    assert decoded == []  # nothing was read but the cache
    cache.image_processor = processor.image_processor
    picture_file(path, 100)
    os.utime(path, ns=(0, time.time_ns() + 10**9))
    assert not np.array_equal(cache(path), first)
    other = PixelCache(tmp_path / "cache", GloriaImageProcessor(size=64, crop_size=64))
    assert not np.array_equal(other(path), cache(path))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        cache(path)


def test_a_damaged_cache_is_mended(tmp_path, rows, processor):
    cache = PixelCache(tmp_path / "cache", processor.image_processor)
    first = cache(rows[0].image).copy()
    (kept,) = (tmp_path / "cache").rglob("*.npy")
    for content in (b"", kept.read_bytes()[:200], b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}"):
        kept.write_bytes(content)
        assert np.array_equal(cache(rows[0].image), first)
        assert np.load(kept).shape == (64, 64, 1)


def test_shards_hold_every_row_once(shards, rows, processor):
    index = json.loads((shards / "shards.json").read_text())
    assert sorted(index.values()) == [2, 3, 3, 3]
    dataset = ShardDataset(shards, processor)
    items = list(dataset)
    assert len(dataset) == len(items) == 11
    assert sorted(reports_of(items)) == sorted(row.report for row in rows)
    table = TableDataset(rows, processor)
    by_report = {item["report"]: item for item in items}
    for index in range(11):
        other = by_report[rows[index].report]
        assert other.keys() == table[index].keys()
        assert torch.equal(other["pixel_values"], table[index]["pixel_values"])
        assert other["report_id"] == table[index]["report_id"]


def test_shards_are_tar_files_of_files_as_they_were(shards, rows):
    with tarfile.open(shards / "000000.tar") as tar:
        names = tar.getnames()
        assert [name.rpartition(".")[2] for name in names] == ["png", "json"] * 3
        about = json.loads(tar.extractfile(names[1]).read())
        row = next(row for row in rows if row.report == about["report"])
        assert about == {"report": row.report, "patient": row.patient, "label": "x", "line": row.line}
        assert tar.extractfile(names[0]).read() == row.image.read_bytes()


def test_smaller_images_in_shards(tmp_path, rows, processor):
    Image.fromarray(np.full((50, 100), 99, np.uint16)).save(rows[0].image)
    write_shards(rows, tmp_path / "small", shards=1, longest_side=16)
    with tarfile.open(tmp_path / "small" / "000000.tar") as tar:
        sizes = [Image.open(tar.extractfile(name)).size for name in tar.getnames() if name.endswith("png")]
    assert Counter(map(max, sizes)) == {16: 11}
    assert (16, 8) in sizes
    assert len(list(ShardDataset(tmp_path / "small", processor))) == 11


def test_every_epoch_has_its_order_and_every_run_the_same(shards, processor):
    orders = []
    for _ in range(2):
        dataset = ShardDataset(shards, processor, buffer=5, seed=3)
        for epoch in range(3):
            dataset.set_epoch(epoch)
            orders.append(reports_of(dataset))
    assert orders[:3] == orders[3:]
    assert len({tuple(order) for order in orders}) == 3
    assert orders[0] != reports_of(ShardDataset(shards, processor, buffer=5, seed=4))


def test_workers_share_the_shards_without_duplicates(shards, rows, processor):
    loader = DataLoader(ShardDataset(shards, processor), batch_size=None, num_workers=2)
    assert sorted(reports_of(loader)) == sorted(row.report for row in rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_the_shards_evenly_without_duplicates(shards, rows, processor, workers):
    ranks = [ShardDataset(shards, processor, rank=rank, ranks=2) for rank in range(2)]
    read = [reports_of(DataLoader(each, batch_size=None, num_workers=workers)) for each in ranks]
    assert len(read[0]) == len(read[1]) >= 4
    both = [*read[0], *read[1]]
    assert len(set(both)) == len(both)
    assert set(both) <= {row.report for row in rows}
    assert len(ranks[0]) == len(ranks[1]) >= len(read[0])


def test_bad_members_and_cut_shards_are_named_and_passed_over(shards, rows, processor):
    cut = shards / "000001.tar"
    cut.write_bytes(cut.read_bytes()[:700])
    with tarfile.open(shards / "000002.tar") as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(shards / "000002.tar", "w") as tar:
        for number, (member, data) in enumerate(members):
            if number == 0:
                data, member.size = b"no image", 8
            if number != 3:  # nor the report of the second
                tar.addfile(member, io.BytesIO(data))
    dataset = ShardDataset(shards, processor, buffer=2)
    with pytest.warns(UserWarning, match="cannot be read") as caught:
        items = list(dataset)
    told = {str(warning.message) for warning in caught}
    stems = [member.name for member, _ in members]
    assert any("000001.tar cannot be read to its end" in each for each in told)
    assert any(f"000002.tar, {stems[0]} cannot be read as an image" in each for each in told)
    assert any(
        f"000002.tar, {stems[2].partition('.')[0]}: the members are ['png']; expected a .json and one" in each
        for each in told
    )
    assert len(items) == 11  # as many as there would have been, some twice
    assert len(set(reports_of(items))) == 6
    with pytest.raises(ValueError, match=r"repair or remove the file"):
        list(ShardDataset(shards, processor, bad_files="refuse"))


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_shards_of_which_nothing_can_be_read_end_the_run(shards, processor):
    for path in shards.glob("*.tar"):
        path.unlink()
    with pytest.raises(ValueError, match=r"nothing in the shards 000000\.tar, .* can be read"):
        list(ShardDataset(shards, processor))


def test_impossible_shards_are_named(tmp_path, shards, rows, processor):
    with pytest.raises(ValueError, match=r"shards is 12; expected 1 to the number of rows, 11"):
        write_shards(rows, tmp_path / "new", shards=12)
    with pytest.raises(ValueError, match="longest_side is 0"):
        write_shards(rows, tmp_path / "new", shards=1, longest_side=0)
    with pytest.raises(ValueError, match="already holds shards; remove them, or name another folder"):
        write_shards(rows, shards, shards=2)
    with pytest.raises(ValueError, match=r"rank is 2 of 2 and buffer 1000; expected 0 <= rank < ranks"):
        ShardDataset(shards, processor, rank=2, ranks=2)
    with pytest.raises(ValueError, match=r"5 ranks with 1 workers are more than the 4 shards in .* --shards N"):
        ShardDataset(shards, processor, ranks=5)
    (shards / "shards.json").write_text('{"000000.tar": 3}')
    with pytest.raises(ValueError, match=r"1 ranks with 2 workers are more than the 1 shards"):
        list(DataLoader(ShardDataset(shards, processor), batch_size=None, num_workers=2))
    (shards / "shards.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no finished shards; expected shards\.json beside them"):
        ShardDataset(shards, processor)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_trainer_reads_shards(shards, processor, config, tmp_path, workers):
    from transformers import Trainer, TrainingArguments

    epochs = []

    class Watched(ShardDataset):
        def set_epoch(self, epoch):
            super().set_epoch(epoch)
            epochs.append(epoch)

    arguments = TrainingArguments(
        str(tmp_path / "run"),
        num_train_epochs=2,
        per_device_train_batch_size=2,
        dataloader_drop_last=True,
        dataloader_num_workers=workers,
        remove_unused_columns=False,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        GloriaModel(config),
        arguments,
        data_collator=PairCollator(processor),
        train_dataset=Watched(shards, processor, buffer=4),
    )
    output = trainer.train()
    assert np.isfinite(output.training_loss)
    assert output.global_step >= 8
    assert set(epochs) == {0, 1}


def with_json(shard, content):
    """Gives every row of a shard this .json."""
    with tarfile.open(shard) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(shard, "w") as tar:
        for member, data in members:
            if member.name.endswith(".json"):
                data = content
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("text", ["report", "sentence"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"report": null, "line": 2}', "the report is None; expected text"),
        ('{"report": 5, "line": 2}', "the report is 5; expected text"),
        ('{"report": NaN, "line": 2}', "the report is nan; expected text"),
        ('{"report": ["Clear."], "line": 2}', r"the report is \['Clear\.'\]; expected text"),
        ('{"report": " ", "line": 2}', "the report is ' '; expected text"),
        ('{"report": "\\ud800", "line": 2}', r"the report is '\\ud800'; expected text"),
        ('{"line": 2}', "the report is None; expected text"),
        ('{"report": "Clear."}', "the line is None; expected the number of a line"),
        ('{"report": "Clear.", "line": "2"}', "the line is '2'; expected the number of a line"),
        ('{"report": "Clear.", "line": 2.5}', "the line is 2.5; expected"),
        ('{"report": "Clear.", "line": true}', "the line is True; expected"),
        ('{"report": "Clear.", "line": 99999999999999999999}', "the line is 99999999999999999999; expected"),
        ("null", "the .json holds None; expected an object with report and line"),
        ("[1, 2]", r"the .json holds \[1, 2\]; expected an object"),
        ("", "the .json is not valid"),
        ('"\xff', "the .json is not valid"),
        ("[" * 100_000, "the .json is not valid .*recursion"),
        ("9" * 10_000, "the .json is not valid .*digits"),
    ],
)
def test_a_row_that_is_wrong_in_any_field_is_a_bad_row(shards, processor, text, content, message):
    with_json(shards / "000001.tar", content.encode("latin-1"))
    dataset = ShardDataset(shards, processor, text=text)
    with pytest.warns(UserWarning, match=rf"000001\.tar, \d+: {message}") as caught:
        items = list(dataset)
    assert len(items) == 11
    assert len({item["line"] for item in items}) == 8
    assert len(caught) == 3
    PairCollator(processor)(items)
    with pytest.raises(ValueError, match=message):
        list(ShardDataset(shards, processor, text=text, bad_files="refuse"))


def test_links_and_folders_in_a_shard_are_passed_over(shards, processor):
    with tarfile.open(shards / "000001.tar", "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("000000999.png")
            member.type, member.linkname = kind, "nowhere"
            tar.addfile(member)
    with pytest.warns(UserWarning, match=r"000000999: the members are \[\]; expected a \.json and one image"):
        assert len({item["line"] for item in ShardDataset(shards, processor)}) == 11


@pytest.mark.parametrize(
    "content",
    ["", "[1]", "{}", '{"000000.tar": "3"}', '{"000000.tar": 0}', '{"000000.tar": null}', "[" * 100_000, "\xff"],
)
def test_a_damaged_listing_of_shards_is_named(shards, processor, content):
    (shards / "shards.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"shards\.json (is not valid JSON|holds .*; expected the number of rows)"):
        ShardDataset(shards, processor)

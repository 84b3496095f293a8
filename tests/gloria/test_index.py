"""An index: its searches are those of all scores at once, and what is not as it was built is refused with a reason."""

import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gloria.data import Row
from gloria.embeddings import Embeddings
from gloria.index import EmbeddingIndex, IndexWriter, Manifest, Retriever, build_index, search
from gloria.index.manifest import MANIFEST, File
from gloria.retrieval import BY
from gloria_ops import LocalScore

FEW_ITEMS = 3000  # bytes of the small model's words or regions


def queries_of(of, rows):
    return [row.report if of == "images" else row.image for row in rows]


@pytest.fixture
def built(model, processor, rows, tmp_path):
    """A folder with a finished index of texts in several shards."""
    index = build_index(
        tmp_path / "index", model, processor, rows, "texts", dtype="float32", batch_size=2, shard_bytes=FEW_ITEMS
    )
    assert len(index.shards) >= 3
    return tmp_path / "index"


@pytest.mark.parametrize("of", ["images", "texts"])
@pytest.mark.parametrize("by", BY)
def test_a_search_finds_what_all_scores_at_once_say(model, processor, rows, everything, tmp_path, of, by):
    expected = everything.by(by).T if of == "images" else everything.by(by)
    for shard_bytes in (1, FEW_ITEMS, 2**28):
        folder = tmp_path / str(shard_bytes)
        index = build_index(folder, model, processor, rows, of, dtype="float32", batch_size=2, shard_bytes=shard_bytes)
        assert len(index) == len(rows)
        found = Retriever(model, processor, index, batch_size=3).search(queries_of(of, rows), 4, by=by)
        scores, numbers = (each[:, :4] for each in expected.sort(dim=1, descending=True, stable=True))
        torch.testing.assert_close(found.scores, scores, atol=2e-5, rtol=2e-5)
        # Where two items score the same but for rounding, either may be the better one.
        torch.testing.assert_close(expected.gather(1, found.indices), scores, atol=2e-5, rtol=2e-5)
        assert (found.indices == numbers).float().mean() > 0.8


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_round_and_no_more(model, processor, rows, everything, tmp_path, dtype):
    index = build_index(tmp_path / "index", model, processor, rows, "images", dtype=dtype)
    assert index.shards[0].part_embeds.dtype == getattr(torch, dtype)
    found = Retriever(model, processor, index).search(queries_of("images", rows), len(rows), by="both")
    tolerance = {"float16": 2e-3, "bfloat16": 2e-2}[dtype]
    torch.testing.assert_close(
        found.scores, everything.by("both").T.gather(1, found.indices), atol=tolerance, rtol=tolerance
    )


def test_hits_say_where_they_come_from(model, processor, rows, built, tmp_path, no_network):
    for part in (model, processor):
        part.save_pretrained(tmp_path / "run")
    retriever = Retriever.from_pretrained(tmp_path / "run", built)
    hits = retriever(rows[3].image, k=99)
    assert sorted(hit.item for hit in hits) == list(range(len(rows)))
    for hit in hits:
        row = rows[hit.item]
        assert (hit.row.line, hit.row.image, hit.row.report, hit.row.label) == (
            row.line,
            row.image.absolute(),
            row.report,
            row.label,
        )
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    several = retriever([rows[3].image, rows[4].image], k=2)
    assert [hit.item for hit in several[0]] == [hit.item for hit in hits[:2]]


def test_the_model_keeps_its_mode(model, processor, rows, tmp_path):
    model.train()
    index = build_index(tmp_path / "index", model, processor, rows, "texts")
    retriever = Retriever(model, processor, index)
    retriever(rows[0].image)
    assert model.training
    with pytest.raises(ValueError, match="by is 'best'"):
        retriever(rows[0].image, by="best")
    assert model.training


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before a shard", "within a shard", "before the manifest"])
def test_a_killed_build_continues_to_the_same_bytes(model, processor, rows, built, tmp_path, monkeypatch, moment):
    folder, whole = tmp_path / "again", Manifest.read(built)
    with monkeypatch.context() as patch:
        if moment == "before a shard":
            target, name, calls = type(model), "get_text_features", 4
        elif moment == "within a shard":
            target, name, calls = IndexWriter, "_save_shard", 2
        else:
            target, name, calls = Manifest, "write", 2
        original, made = getattr(target, name), []

        def dying(self, *arguments, **named):
            made.append(1)
            if len(made) == calls:
                if moment == "within a shard":
                    arguments[0].write_bytes(b"half a shard")
                raise Killed
            return original(self, *arguments, **named)

        patch.setattr(target, name, dying)
        with pytest.raises(Killed):
            build_index(folder, model, processor, rows, "texts", dtype="float32", batch_size=2, shard_bytes=FEW_ITEMS)
    done = Manifest.read(folder).done
    assert 0 < done < len(rows)
    with pytest.raises(ValueError, match=f"unfinished: {done} of {len(rows)} rows are in it; run the build again"):
        EmbeddingIndex(folder)
    build_index(folder, model, processor, rows, "texts", dtype="float32", batch_size=2, shard_bytes=FEW_ITEMS)
    assert Manifest.read(folder) == whole
    EmbeddingIndex(folder)
    assert not list(folder.glob("*.partial"))


def test_two_builds_do_not_write_into_one_folder(model, processor, rows, tmp_path, monkeypatch):
    """The second begins within the first, in another thread."""
    refused, original = [], type(model).get_text_features

    def second():
        try:
            build_index(tmp_path / "index", model, processor, rows, "texts")
        except ValueError as error:
            refused.append(str(error))

    def within(self, **given):
        monkeypatch.setattr(type(model), "get_text_features", original)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return original(self, **given)

    monkeypatch.setattr(type(model), "get_text_features", within)
    index = build_index(tmp_path / "index", model, processor, rows, "texts")
    assert len(index) == len(rows)
    assert len(refused) == 1
    assert f"index is being written by process {os.getpid()} on " in refused[0]


def test_a_table_that_grows_is_appended(model, processor, rows, tmp_path, monkeypatch):
    build_index(tmp_path / "index", model, processor, rows[:7], "texts")
    encoded = []
    original = type(model).get_text_features
    monkeypatch.setattr(
        type(model), "get_text_features", lambda self, **given: encoded.append(1) or original(self, **given)
    )
    index = build_index(tmp_path / "index", model, processor, rows, "texts", batch_size=1)
    assert len(encoded) == 4
    assert [row.line for row in index.rows(range(len(index)))] == [row.line for row in rows]
    encoded.clear()
    build_index(tmp_path / "index", model, processor, rows, "texts")
    assert not encoded


def test_another_index_is_not_continued(model, processor, rows, built):
    again = {"of": "texts", "dtype": "float32"}
    with pytest.raises(ValueError, match="holds an index of another table: its first 11 rows are not those"):
        build_index(built, model, processor, [replace(rows[0], report="Other."), *rows[1:]], **again)
    with pytest.raises(ValueError, match="holds an index of another table"):
        build_index(built, model, processor, rows[:5], **again)
    with pytest.raises(ValueError, match="with of 'texts', not 'images'; name another folder"):
        build_index(built, model, processor, rows, **again | {"of": "images"})
    with pytest.raises(ValueError, match="with dtype 'float32', not 'float16'"):
        build_index(built, model, processor, rows, **again | {"dtype": "float16"})
    with torch.no_grad():
        model.text_encoder.embeddings.word_embeddings.weight[5, 0] += 1e-3
    with pytest.raises(ValueError, match="made with another model"):
        build_index(built, model, processor, rows, **again)


def test_bad_rows_are_named_and_left_out(model, processor, rows, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    table = [
        rows[0],
        Row(3, tmp_path / "gone.png", ""),
        Row(4, None, "Words."),
        Row(5, tmp_path / "text.png", "Words."),
        Row(6, None, "", fault="3 fields where the header has 2"),
        replace(rows[5], report=""),
    ]
    images = build_index(tmp_path / "images", model, processor, table, "images", batch_size=4)
    assert [row.line for row in images.rows(range(len(images)))] == [2, 7]
    named = [str(problem) for problem in images.manifest.bad]
    assert "gone.png" in named[0]
    assert named[1] == "line 4: the image is not named"
    assert "text.png cannot be read as an image" in named[2]
    assert named[3] == "line 6: 3 fields where the header has 2"
    assert len(named) == 4
    texts = build_index(tmp_path / "texts", model, processor, table[:3], "texts", batch_size=1, shard_bytes=1)
    texts = build_index(tmp_path / "texts", model, processor, table, "texts", batch_size=1, shard_bytes=1)
    assert [row.line for row in texts.rows(range(len(texts)))] == [2, 4, 5]
    assert [problem.line for problem in texts.manifest.bad] == [3, 6, 7]  # of the earlier build, too
    build_index(tmp_path / "none", model, processor, table, "images", batch_size=4)
    with pytest.raises(ValueError, match="is empty: none of its 2 rows is good"):
        build_index(tmp_path / "empty", model, processor, table[1:3], "images")


def test_vectors_that_are_no_numbers_are_not_stored(model, processor, rows, tmp_path):
    with torch.no_grad():
        model.word_projection.weight.mul_(1e9)
    with pytest.raises(ValueError, match=r"line 2: its vectors are NaN or infinite in float16; take float32"):
        build_index(tmp_path / "halves", model, processor, rows, "texts")
    build_index(tmp_path / "floats", model, processor, rows, "texts", dtype="float32")
    with torch.no_grad():
        model.word_projection.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="line 2: its vectors are NaN or infinite in float32"):
        build_index(tmp_path / "nan", model, processor, rows, "texts", dtype="float32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "a batch_size of 0"),
        ({"shard_bytes": 0}, "shard_bytes is 0; expected at least 1"),
        ({"dtype": "int8"}, "dtype is 'int8'; expected one of 'float16', 'bfloat16', 'float32'"),
        ({"of": "words"}, "of is 'words'; expected 'images' or 'texts'"),
    ],
)
def test_impossible_builds(model, processor, rows, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build_index(tmp_path / "index", model, processor, rows, **{"of": "texts"} | options)
    assert not (tmp_path / "index" / MANIFEST).exists()


def flip(path):
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


def cut(path):
    os.truncate(path, path.stat().st_size - 100)


def swap(path):
    other = path.with_name("shard-00001.safetensors")
    mine, others = path.read_bytes(), other.read_bytes()
    path.write_bytes(others)
    other.write_bytes(mine)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "shard-00000.safetensors is not what was written: its SHA-256 differs"),
        (cut, r"shard-00000.safetensors has \d+ bytes; expected \d+: it was cut off or changed"),
        (Path.unlink, "shard-00000.safetensors is missing, which manifest.json lists"),
        (swap, "shard-00000.safetensors (has|is not)"),
    ],
)
def test_a_damaged_shard_is_refused(built, damage, message):
    damage(built / "shard-00000.safetensors")
    with pytest.raises(ValueError, match=message):
        EmbeddingIndex(built)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors | {"part_embeds": tensors["part_embeds"][:, :5].contiguous()},
            "holds torch.float32 parts of the",
        ),
        (lambda tensors: tensors | {"part_embeds": tensors["part_embeds"].half()}, "holds torch.float16 parts"),
        (lambda tensors: tensors | {"offsets": tensors["offsets"].flip(0)}, "build the index again"),
        (
            lambda tensors: tensors | {"item_embeds": tensors["item_embeds"][:-1].contiguous()},
            "expected float32, 24 wide, for",
        ),
        (lambda tensors: {"part_embeds": tensors["part_embeds"]}, "is damaged .*item_embeds"),
    ],
)
def test_a_shard_of_another_layout_is_refused_whatever_its_hash(built, change, message):
    manifest = Manifest.read(built)
    tensors = load_file(built / manifest.shards[0].name)
    forged = File.written(
        built, manifest.shards[0].name, manifest.shards[0].items, lambda path: save_file(change(tensors), path)
    )
    replace(manifest, shards=(forged, *manifest.shards[1:])).write(built)
    with pytest.raises(ValueError, match=message):
        EmbeddingIndex(built)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda saved: "{", "manifest.json is damaged"),
        (lambda saved: "[]", "manifest.json is damaged"),
        (lambda saved: json.dumps(saved | {"version": 1}), "has the format version 1, and this program reads 2"),
        (lambda saved: json.dumps({"version": 2}), "is damaged .without bad, digest"),
        (lambda saved: json.dumps(saved | {"more": 1}), "manifest.json is damaged"),
        (lambda saved: json.dumps(saved | {"dtype": "int8"}), "dtype is 'int8'"),
    ],
)
def test_a_damaged_manifest_is_refused(built, change, message):
    path = built / MANIFEST
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(ValueError, match=message):
        EmbeddingIndex(built)


def test_an_index_of_another_model_or_preprocessing_is_refused(model, processor, built, tmp_path):
    index = EmbeddingIndex(built)
    shorter = type(processor)(processor.image_processor, processor.tokenizer, max_length=50)
    with pytest.raises(ValueError, match="the index was made with another preprocessing"):
        Retriever(model, shorter, index)
    with torch.no_grad():
        next(model.image_encoder.parameters()).flatten()[0].add_(1e-3)
    with pytest.raises(ValueError, match=r"the index was made with another model \(hash [0-9a-f]{12}, not"):
        Retriever(model, processor, index)
    with pytest.raises(ValueError, match=r"holds no index \(no manifest.json\)"):
        EmbeddingIndex(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "k is 0; expected 1 to 11"),
        ({"k": 12}, "k is 12; expected 1 to 11"),
        ({"by": "best"}, "by is 'best'; expected one of 'global', 'local', 'both'"),
        ({"k": 5, "candidates": 4}, "candidates is 4 and k 5; expected at least k candidates"),
        ({"candidates": 5}, "has no FAISS index of its items, which candidates are looked up in"),
    ],
)
def test_impossible_searches(built, given, message):
    one = Embeddings(torch.zeros(1, 24), torch.zeros(3, 24), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=message):
        search(EmbeddingIndex(built), one, **{"k": 1, "by": "both", "score": LocalScore.released()} | given)


def test_queries_that_do_not_fit(model, processor, rows, built):
    index = EmbeddingIndex(built)
    wide = Embeddings(torch.zeros(1, 25), torch.zeros(3, 25), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"queries are 25 wide and the index 24 \(D\)"):
        search(index, wide, 1, by="both", score=LocalScore.released())
    retriever = Retriever(model, processor, index)
    with pytest.raises(ValueError, match="expected 1 to 11, the number of items") as held:
        retriever.search(queries_of(index.manifest.of, rows), len(rows) + 1)
    assert torch.is_grad_enabled(), held  # whose traceback keeps the search alive
    with pytest.raises(ValueError, match="queries is empty"):
        retriever([])
    with pytest.raises(ValueError, match="left effusion cannot be read as an image"):
        retriever("left effusion")
    with pytest.raises(ValueError, match="batch_size is 0"):
        Retriever(model, processor, index, batch_size=0)


def test_an_empty_text_finds_nothing(model, processor, rows, tmp_path):
    retriever = Retriever(model, processor, build_index(tmp_path / "index", model, processor, rows, "images"))
    with pytest.raises(ValueError, match="a query is empty; expected some words"):
        retriever(["left effusion", " "])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_corpus_stays_on_the_disk(tmp_path):
    """96 MiB, mapped and scored; the memory that the process itself holds grows by less than a quarter of that."""
    writer = IndexWriter(tmp_path, Manifest("texts", 64, "float16", "a model", "a processor"))
    for number in range(6):
        items = Embeddings(torch.randn(1000, 64), torch.randn(128_000, 64).half(), 128 * torch.arange(1001))
        writer.add(items, [Row(number * 1000 + line, None, "Words.") for line in range(1000)])
        writer.write(0, "")
    index = EmbeddingIndex(tmp_path)
    image = Embeddings(torch.randn(1, 64), torch.randn(9, 64), torch.tensor([0, 9]))

    def held():
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return 1024 * int(fields["RssAnon"].split()[0])

    before = held()
    found = search(index, image, 3, by="both", score=LocalScore.released())
    assert found.indices.shape == (1, 3)
    assert held() - before < 24 * 2**20

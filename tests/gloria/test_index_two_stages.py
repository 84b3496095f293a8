"""A search in two stages: it is the exact one among its candidates, and what it loses is counted."""

import math
import sys
from dataclasses import replace

import faiss
import pytest
import torch

import gloria.index.nearest
from gloria.data import Row
from gloria.embeddings import Embeddings
from gloria.index import (
    EmbeddingIndex,
    IndexWriter,
    Manifest,
    Retriever,
    build_index,
    build_nearest,
    evaluate,
    rerank,
    search,
)
from gloria.index.evaluate import format_evaluation
from gloria.retrieval import BY
from gloria_ops import LocalScore

RELEASED = LocalScore.released()


@pytest.fixture
def built(model, processor, rows, tmp_path):
    index = build_index(
        tmp_path / "index", model, processor, rows, "images", dtype="float32", batch_size=2, shard_bytes=5000
    )
    assert len(index.shards) >= 3
    return build_nearest(index)


def test_an_index_that_has_changed_since_it_was_opened_is_left_as_it_is(model, processor, rows, tmp_path):
    index = build_index(tmp_path / "index", model, processor, rows[:7], "images")
    build_index(tmp_path / "index", model, processor, rows, "images")
    before = Manifest.read(tmp_path / "index")
    with pytest.raises(ValueError, match="index has changed since it was opened; open it again"):
        build_nearest(index)
    assert Manifest.read(tmp_path / "index") == before


@pytest.mark.parametrize("by", BY)
def test_among_its_candidates_it_is_the_exact_search(model, processor, rows, everything, built, by):
    retriever = Retriever(model, processor, built, batch_size=4)
    reports = [row.report for row in rows]
    for candidates in (4, 7, len(rows), 100):
        found = retriever.search(reports, 3, by=by, candidates=candidates)
        allowed = torch.full_like(everything.of_global.T, -math.inf)
        near = everything.of_global.T.topk(min(candidates, len(rows))).indices
        allowed.scatter_(1, near, everything.by(by).T.gather(1, near))
        scores = allowed.sort(dim=1, descending=True).values[:, :3]
        torch.testing.assert_close(found.scores, scores, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(everything.by(by).T.gather(1, found.indices), scores, atol=2e-5, rtol=2e-5)


def test_all_candidates_of_one_query_give_the_bits_of_the_exact_search(model, processor, rows, built):
    retriever = Retriever(model, processor, built)
    for row in rows[:3]:
        exact = retriever.search([row.report], 5)
        in_two = retriever.search([row.report], 5, candidates=len(rows))
        assert torch.equal(exact.indices, in_two.indices)
        torch.testing.assert_close(exact.scores, in_two.scores, atol=1e-6, rtol=1e-6)


def test_queries_beyond_the_dtype_of_the_index_are_refused(model, processor, rows, tmp_path):
    index = build_index(tmp_path / "half", model, processor, rows, "images")
    for whole, parts in ((1.0, 1e5), (float("nan"), 1.0)):
        queries = Embeddings(torch.full((1, 24), whole), torch.full((2, 24), parts), torch.tensor([0, 2]))
        with pytest.raises(ValueError, match=r"NaN or infinite in torch\.float16, the dtype of the index"):
            search(index, queries, 1, by="both", score=RELEASED)


def test_training_takes_evenly_spaced_vectors_of_all_shards(built, monkeypatch):
    whole = torch.nn.functional.normalize(torch.cat([shard.item_embeds for shard in built.shards]))
    for most in (1, 4, 7, 100):
        monkeypatch.setattr(gloria.index.nearest, "MOST_TO_TRAIN_ON", most)
        count = min(most, len(built))
        expected = whole[[number * len(built) // count for number in range(count)]]
        torch.testing.assert_close(gloria.index.nearest._training_sample(built), expected)


def test_fewer_candidates_than_asked_for(built):
    query = Embeddings(torch.randn(2, 24), torch.randn(5, 24), torch.tensor([0, 3, 5]))
    given = torch.tensor([[-1, 4, -1], [-1, -1, -1]])
    found = rerank(built, query, given, 2, by="both", score=RELEASED)
    assert found.indices.tolist() == [[4, -1], [-1, -1]]
    assert found.scores[0, 0].isfinite()
    assert found.scores.flatten()[1:].tolist() == [-math.inf] * 3


@pytest.mark.parametrize("factory", ["IVF32,Flat", "RR16,IVF32,Flat", "HNSW16"])
def test_what_looks_at_some_finds_most_and_is_read_again(tmp_path, factory):
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(40, 16, generator=generator)
    whole = centers[torch.arange(2000) % 40] + 0.1 * torch.randn(2000, 16, generator=generator)
    writer = IndexWriter(tmp_path, Manifest("texts", 16, "float16", "a model", "a processor"))
    for part in (slice(0, 1500), slice(1500, 2000)):
        some = whole[part]
        writer.add(
            Embeddings(some, some.half(), torch.arange(len(some) + 1)),
            [Row(2, None, "Words.") for _ in range(len(some))],
        )
        writer.write(0, "")
    build_nearest(EmbeddingIndex(tmp_path), factory)
    index = EmbeddingIndex(tmp_path)
    assert index.manifest.factory == factory
    queries = Embeddings(whole[:50], whole[:50], torch.arange(51))
    exact = search(index, queries, 10, by="global", score=RELEASED)
    found = search(index, queries, 10, by="global", score=RELEASED, candidates=30)
    kept = (exact.indices[:, :, None] == found.indices[:, None, :]).any(2).float().mean()
    assert 0.8 < kept <= 1
    assert (found.indices[:, 0] == torch.arange(50)).float().mean() > 0.8
    cells = faiss.try_extract_index_ivf(index.nearest)
    assert (cells is None) == (factory == "HNSW16")
    assert cells is None or cells.nprobe == 2  # a sixteenth, also where the cells lie within another index


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("Nonsense", "factory is 'Nonsense', which FAISS refuses for 11 vectors of 24"),
        ("IVF64,Flat", "factory is 'IVF64,Flat', which FAISS refuses for 11 vectors of 24"),
    ],
)
def test_a_factory_that_faiss_refuses(built, factory, message):
    with pytest.raises(ValueError, match=message):
        build_nearest(built, factory)
    assert EmbeddingIndex(built.folder).manifest.factory == "Flat"


def test_without_faiss_there_is_a_line_that_says_so(model, processor, rows, built, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    index = EmbeddingIndex(built.folder)
    retriever = Retriever(model, processor, index)
    with pytest.raises(ValueError, match=r"needs FAISS, .*: pip install '\.\[faiss\]' in the clone"):
        retriever("left effusion", k=2, candidates=3)
    assert len(retriever("left effusion", k=2)) == 2


def test_a_damaged_file_of_faiss_is_refused(built):
    path = built.folder / "item_embeds.faiss"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"item_embeds\.faiss is not what was written"):
        EmbeddingIndex(built.folder)
    path.write_bytes(data[:100])
    with pytest.raises(ValueError, match=r"item_embeds\.faiss has 100 bytes"):
        EmbeddingIndex(built.folder, verify=False)


def test_what_faiss_does_not_know_is_not_lost(model, processor, rows, tmp_path):
    folder = tmp_path / "index"
    build_nearest(build_index(folder, model, processor, rows[:6], "images"))
    index = build_index(folder, model, processor, rows, "images")
    assert index.manifest.nearest is None
    with pytest.raises(ValueError, match="has no FAISS index of its items"):
        Retriever(model, processor, index)("left", k=2, candidates=4)
    assert len(Retriever(model, processor, build_nearest(index))("left", k=11, candidates=11)) == 11
    again = build_index(folder, model, processor, rows, "images")  # nothing new: what FAISS knows is still all
    assert again.manifest.nearest is not None


def test_figures_are_those_of_all_scores_at_once(model, processor, rows, everything, built):
    found = evaluate(Retriever(model, processor, built, batch_size=4), rows, (1, 5, 100), candidates=6)
    assert (found.queries, found.paired) == (11, 11)
    labels = [row.label for row in rows]
    assert found.chance == pytest.approx(sum(labels.count(label) for label in labels) / 11**2)
    for by in BY:
        order = everything.by(by).T.argsort(dim=1, descending=True, stable=True)[:, :5]
        same = torch.tensor(
            [[labels[item] == label for item in line] for line, label in zip(order, labels, strict=True)]
        )
        own = order == torch.arange(11)[:, None]
        expected = {f"P@{k}": same[:, :k].float().mean().item() for k in (1, 5)}
        expected |= {f"R@{k}": own[:, :k].any(1).float().mean().item() for k in (1, 5)}
        assert found.table[by] == pytest.approx(expected)
    in_two = found.table["both, 6 candidates"]
    assert set(in_two) == {"P@1", "P@5", "R@1", "R@5", "kept@1", "kept@5"}
    near = everything.of_global.T.topk(6).indices
    best = everything.by("both").T.argmax(1, keepdim=True)
    assert in_two["kept@1"] == pytest.approx((near == best).any(1).float().mean().item())
    text = format_evaluation(found)
    assert len(text.splitlines()) == 8
    assert text.splitlines()[1].split()[1] == f"{100 * found.table['global']['P@1']:.1f}"
    assert text.splitlines()[1].split()[-1] == "-"


def test_queries_without_their_own_pair(model, processor, rows, tmp_path):
    index = build_index(tmp_path / "index", model, processor, rows[:8], "texts")
    found = evaluate(Retriever(model, processor, index), rows[6:], (2,), by=["local"])
    assert (found.queries, found.paired) == (5, 2)
    alone = evaluate(Retriever(model, processor, index), rows[8:], (2,), by=["local"])
    assert (alone.paired, set(alone.table["local"])) == (0, {"P@2"})
    equal = replace(rows[9], report=f" {rows[0].report.upper()}")  # a second image of the same report is a hit
    assert evaluate(Retriever(model, processor, index), [equal], (8,), by=["local"]).table["local"]["R@8"] == 1
    with pytest.raises(ValueError, match="ks has none of 1 to 8"):
        evaluate(Retriever(model, processor, index), rows, (9,))

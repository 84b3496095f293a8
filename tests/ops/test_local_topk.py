"""local_topk finds what scoring and sorting everything finds, in any corpus, wherever it is cut, in little memory."""

import os
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from problems import PRESETS, problem
from tolerances import FLOAT32

from gloria_ops import LocalScore, backends, local_scores, local_topk, merge_best, retrieval

# The same numbers as words of texts and as regions of images; a corpus of 23 items and 5 queries of it.
MANY = problem("random", images=23, texts=5, most_regions=12, most_words=7, width=8)
MAXSIM = LocalScore.maxsim()


def packed(rows, lengths):
    """Packed rows of padded ones, and their offsets."""
    return rows[torch.arange(rows.shape[1]) < lengths[:, None]], F.pad(lengths.cumsum(0), (1, 0))


ITEMS, OFFSETS = packed(MANY.regions.float(), MANY.region_lengths)


def search(of, dtype, k, **settings):
    """Through packed rows of both sides."""
    corpus, offsets = packed(MANY.regions.to(dtype), MANY.region_lengths)
    queries, query_offsets = packed(MANY.words.to(dtype), MANY.word_lengths)
    return local_topk(queries, corpus, k, of=of, query_offsets=query_offsets, corpus_offsets=offsets, **settings)


def every_score(of, dtype, **settings):
    """(Q, N), of padded rows, by `local_scores`."""
    corpus, queries = MANY.regions.to(dtype), MANY.words.to(dtype)
    if of == "images":
        return local_scores(corpus, queries, **MANY.lengths, **settings).T
    exchanged = {"region_lengths": MANY.word_lengths, "word_lengths": MANY.region_lengths}
    return local_scores(queries, corpus, **exchanged, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("of", ["images", "texts"])
@pytest.mark.parametrize("name", PRESETS)
def test_finds_the_best_of_all_scores(name, of, dtype, monkeypatch):
    monkeypatch.setattr(retrieval, "CHUNK_ROWS", 40)
    settings = {"score": PRESETS[name], "backend": "cpu"}
    found = search(of, dtype, 6, **settings)
    every = every_score(of, dtype, **settings)
    expected = every.topk(6).values
    if PRESETS[name].similarity == "dot":
        assert torch.equal(found.scores, expected)
        assert torch.equal(found.scores, every.gather(1, found.indices))
    else:  # few queries may take another way to the norm of the context: equal in the dtype of the rows
        torch.testing.assert_close(found.scores.to(dtype), expected.to(dtype))
        torch.testing.assert_close(found.scores.to(dtype), every.gather(1, found.indices).to(dtype))


@pytest.mark.parametrize("of", ["images", "texts"])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_the_reference_finds_them_in_float64(of, direction, monkeypatch):
    monkeypatch.setattr(retrieval, "CHUNK_ROWS", 40)
    settings = {"score": replace(LocalScore.released(), direction=direction), "backend": "reference"}
    found = search(of, torch.float64, 6, **settings)
    expected = every_score(of, torch.float64, **settings).topk(6)
    assert found.scores.dtype == torch.float64
    torch.testing.assert_close(found.scores, expected.values)
    assert torch.equal(found.indices, expected.indices)


@pytest.mark.parametrize("of", ["images", "texts"])
@pytest.mark.parametrize("name", PRESETS)
def test_where_the_corpus_is_cut_changes_no_bit(name, of, monkeypatch):
    settings = {"score": PRESETS[name], "backend": "cpu"}
    whole = search(of, torch.float32, 9, **settings)
    for rows, scores in ((1, 2**18), (17, 2**18), (50, 2**18), (2**16, 1), (2**16, 35), (30, 15)):
        monkeypatch.setattr(retrieval, "CHUNK_ROWS", rows)
        monkeypatch.setattr(retrieval, "CHUNK_SCORES", scores)
        cut = search(of, torch.float32, 9, **settings)
        assert torch.equal(cut.scores, whole.scores)
        assert torch.equal(cut.indices, whole.indices)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_backend_is_given_views_of_at_most_a_chunk(layout, monkeypatch):
    corpus, described = MANY.regions.float(), {"corpus_lengths": MANY.region_lengths}
    if layout == "packed":
        corpus, described = ITEMS, {"corpus_offsets": OFFSETS}
    given = []
    forward = backends.cpu.forward

    def watched(attended, *rest):
        given.append((attended.rows.data_ptr(), attended.rows.shape[0], attended.starts.shape[0]))
        return forward(attended, *rest)

    monkeypatch.setattr(backends.cpu, "forward", watched)
    monkeypatch.setattr(retrieval, "CHUNK_ROWS", 30)
    monkeypatch.setattr(retrieval, "CHUNK_SCORES", 5 * 4)
    local_topk(MANY.words.float(), corpus, 2, of="images", **described)
    position = corpus.data_ptr()
    for address, rows, items in given:
        assert address == position  # one behind the other, without a gap, in the memory of the corpus
        assert rows <= 30
        assert items <= 4
        position += rows * corpus.shape[-1] * corpus.itemsize
    assert position == corpus.data_ptr() + corpus.nbytes
    assert len(given) >= corpus.nbytes / (30 * corpus.shape[-1] * corpus.itemsize)


def test_an_item_longer_than_a_chunk_is_one(monkeypatch):
    whole = search("images", torch.float32, 23)
    monkeypatch.setattr(retrieval, "CHUNK_ROWS", 2)
    assert torch.equal(search("images", torch.float32, 23).scores, whole.scores)


def test_layouts_agree_to_the_bit():
    of_packed = search("images", torch.float32, 7)
    corpus, queries = MANY.regions.float(), MANY.words.float()
    corpus[torch.arange(12) >= MANY.region_lengths[:, None]] = torch.nan
    queries[torch.arange(7) >= MANY.word_lengths[:, None]] = torch.nan
    lengths = {"query_lengths": MANY.word_lengths.tolist(), "corpus_lengths": MANY.region_lengths.numpy()}
    of_padded = local_topk(queries, corpus, 7, of="images", **lengths)
    assert torch.equal(of_padded.scores, of_packed.scores)
    assert torch.equal(of_padded.indices, of_packed.indices)


def test_uniform_corpora_need_no_lengths():
    corpus = torch.randn(9, 4, 8)
    found = local_topk(MANY.words.float(), corpus, 9, of="images")
    assert torch.equal(found.scores, local_scores(corpus, MANY.words.float()).T.sort(descending=True).values)


@pytest.mark.parametrize("rows", [1, 5, 2**16])
def test_of_equal_scores_the_lower_index_comes_first(rows, monkeypatch):
    """Items 0, 3, 6 … are one image, 1, 4, 7 … another, and so on."""
    monkeypatch.setattr(retrieval, "CHUNK_ROWS", rows)
    corpus = torch.randn(3, 2, 8).repeat(40, 1, 1)
    query = torch.randn(1, 4, 8)
    indices = local_topk(query, corpus, 120, of="images").indices[0]
    ranked = local_scores(corpus[:3], query)[:, 0].argsort(descending=True)
    expected = [torch.arange(kind, 120, 3) for kind in ranked.tolist()]
    assert torch.equal(indices, torch.cat(expected))


@pytest.mark.parametrize("rows", [1, 7, 2**16])
def test_nan_ranks_last_and_hides_nothing(rows, monkeypatch):
    monkeypatch.setattr(retrieval, "CHUNK_ROWS", rows)
    corpus, query = torch.randn(10, 3, 8), torch.randn(1, 4, 8)
    clean = local_topk(query, corpus, 10, of="images")
    corpus[[0, 4, 9], 1, 2] = torch.nan
    found = local_topk(query, corpus, 10, of="images")
    numbers = [item for item in clean.indices[0].tolist() if item not in (0, 4, 9)]
    assert found.indices[0].tolist() == [*numbers, 0, 4, 9]
    assert found.scores[0].isnan().tolist() == 7 * [False] + 3 * [True]
    assert torch.equal(found.scores[0, :7], local_scores(corpus[numbers], query)[:, 0])


def test_nan_ranks_below_minus_infinity():
    corpus = torch.tensor([torch.nan, -torch.inf, 1, -torch.inf]).reshape(4, 1, 1)
    found = local_topk(torch.ones(1, 1, 1), corpus, 4, of="images", score=MAXSIM)
    assert found.indices.tolist() == [[2, 1, 3, 0]]


def test_no_gradient_is_recorded():
    words, corpus = MANY.words.float().requires_grad_(), MANY.regions.float().requires_grad_()
    for backend in ("cpu", "reference"):
        found = local_topk(words, corpus, 3, of="images", backend=backend)
        assert not found.scores.requires_grad
        plain = local_topk(words.detach(), corpus.detach(), 3, of="images", backend=backend)
        # torch.matmul takes another product for tensors that ask for gradients, so the reference's bits may differ.
        tolerance = FLOAT32 if backend == "reference" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(found.scores, plain.scores, **tolerance)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_autocast_changes_nothing(backend):
    plain = search("images", torch.float32, 3, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(search("images", torch.float32, 3, backend=backend).scores, plain.scores)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_read_only_memory_map_is_a_corpus(dtype, tmp_path):
    ITEMS.numpy().astype(dtype).tofile(tmp_path / "corpus")
    OFFSETS.numpy().tofile(tmp_path / "offsets")
    corpus = np.memmap(tmp_path / "corpus", dtype, mode="r").reshape(-1, 8)
    offsets = np.memmap(tmp_path / "offsets", np.int64, mode="r")
    queries = MANY.words.to(torch.from_numpy(np.empty(0, dtype)).dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a read-only array is no reason to warn
        found = local_topk(queries, corpus, 4, of="images", corpus_offsets=offsets)
    expected = local_topk(queries, torch.tensor(np.array(corpus)), 4, of="images", corpus_offsets=OFFSETS)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.indices, expected.indices)


def test_torch_still_warns_of_other_read_only_arrays():
    """Torch does so once a process: the warning must not have been spent, nor silenced, by the search."""
    program = """
import warnings, numpy, torch, gloria_ops
array = numpy.ones((2, 1, 4), numpy.float32)
array.flags.writeable = False
gloria_ops.local_topk(torch.ones(1, 1, 4), array, 1, of="images")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    torch.from_numpy(array)
assert "not writable" in str(caught[0].message)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_bfloat16_memory_map_is_a_corpus(tmp_path):
    path = str(tmp_path / "corpus")
    rows = ITEMS.bfloat16()
    rows.view(torch.int16).numpy().tofile(path)
    mapped = torch.from_file(path, size=rows.numel(), dtype=torch.bfloat16).view(-1, 8)
    queries = MANY.words.bfloat16()
    found = local_topk(queries, mapped, 4, of="images", corpus_offsets=OFFSETS)
    assert torch.equal(found.scores, local_topk(queries, rows, 4, of="images", corpus_offsets=OFFSETS).scores)


LARGER_THAN_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from gloria_ops import LocalScore, local_topk

def anonymous():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["VmData"].split()[0]), 1024 * int(fields["RssAnon"].split()[0])

path, of = sys.argv[1:]
corpus = np.memmap(path, np.float16, mode="r").reshape(-1, 16, 512)
query = torch.zeros(1, 1, 512, dtype=torch.float16)
query[0, 0, 3] = 1
search = lambda items, k: local_topk(query, items, k, of=of, score=LocalScore.maxsim(), backend="cpu")
search(corpus[:8], 1)
data, before = anonymous()
resource.setrlimit(resource.RLIMIT_DATA, (data + 2**26, data + 2**26))
found = search(corpus, 2)
assert found.indices.tolist() == [[len(corpus) - 1, 0]], found
assert anonymous()[1] - before < 2**25, anonymous()[1] - before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits what a process may allocate")
@pytest.mark.parametrize("of", ["images", "texts"])
def test_a_corpus_larger_than_the_memory_allowed(of, tmp_path):
    """512 MiB, sparse on the disk, by a process that may allocate 64 MiB more than it has and keeps less than 32."""
    path = tmp_path / "corpus"
    with path.open("wb") as file:
        file.truncate(2**29)
        file.seek(2**29 - 512 * 2 + 3 * 2)  # the last row holds the one value that is no zero
        file.write(np.float16(1).tobytes())
    command = [sys.executable, "-c", LARGER_THAN_MEMORY, path, of]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


WORDS, REGIONS = torch.randn(2, 3, 8), torch.randn(4, 5, 8)
ROWS = REGIONS.flatten(0, 1)

VALUES_REFUSED = {
    "k too large": (WORDS, REGIONS, {"k": 5}, r"k is 5; expected 1 to 4, the number of items .*: min\(k, 4\)"),
    "k of nothing": (WORDS, REGIONS, {"k": 0}, "k is 0; expected 1 to 4"),
    "of": (WORDS, REGIONS, {"of": "words"}, "of is 'words'; expected 'images' or 'texts', what the corpus holds"),
    "empty corpus": (WORDS, REGIONS[:0], {}, r"corpus has the shape \(0, 5, 8\); expected \(N, L, D\) with every size"),
    "empty packed corpus": (
        WORDS,
        ROWS[:0],
        {"corpus_offsets": [0, 0]},
        r"corpus has the shape \(0, 8\); expected \(sum of L, D\) with every size at least 1",
    ),
    "empty map": (
        WORDS,
        np.zeros((0, 5, 8), np.float32),
        {},
        r"corpus has the shape \(0, 5, 8\)",
    ),
    "no queries": (WORDS[:0], REGIONS, {}, r"queries has the shape \(0, 3, 8\); expected \(Q, L, D\) with every size"),
    "rank": (WORDS, REGIONS[None], {}, r"corpus has the shape \(1, 4, 5, 8\); expected \(N, L, D\), or packed"),
    "packed without offsets": (WORDS, ROWS, {}, r"corpus has .*, packed, without corpus_offsets; give corpus_offsets"),
    "queries without offsets": (
        WORDS[0],
        REGIONS,
        {},
        r"packed, without query_offsets; give query_offsets \(Q \+ 1,\)",
    ),
    "padded with offsets": (
        WORDS,
        REGIONS,
        {"corpus_offsets": [0, 4]},
        r"corpus_offsets is given with padded corpus \(4, 5, 8\); give corpus_lengths instead",
    ),
    "both": (
        WORDS,
        ROWS,
        {"corpus_offsets": [0, 20], "corpus_lengths": [20]},
        "corpus_lengths and corpus_offsets are both given; for packed corpus give corpus_offsets alone",
    ),
    "offsets begin": (WORDS, ROWS, {"corpus_offsets": [1, 20]}, "corpus_offsets goes from 1 to 20; expected 0 to 20"),
    "offsets end": (WORDS, ROWS, {"corpus_offsets": [0, 19]}, "goes from 0 to 19; .* 20, the number of packed rows"),
    "offsets rest": (
        WORDS,
        ROWS,
        {"corpus_offsets": torch.tensor([0, 7, 7, 20])},
        r"corpus_offsets does not rise from item 1 \(7\) to item 2 \(7\); each item needs at least one row: drop empty",
    ),
    "lengths": (WORDS, REGIONS, {"query_lengths": [3, 4]}, r"query_lengths\[1\] is 4; expected 1 to 3, the padded"),
    "width": (WORDS[..., :6].contiguous(), REGIONS, {}, r"queries are 6 wide and the corpus 8 \(D\), from the shapes"),
    "strides": (
        WORDS,
        torch.randn(4, 5, 16)[..., ::2],
        {},
        r"corpus has the shape \(4, 5, 8\) with the strides \(80, 16, 2\); expected contiguous rows, of which no copy",
    ),
    "strides of an array": (WORDS, REGIONS.numpy()[:, ::2], {}, r"with the strides \(40, 16, 1\); expected contiguous"),
    "devices": (WORDS.to("meta"), REGIONS, {}, "queries are on meta and corpus on cpu; expected one device"),
    "backend": (WORDS, REGIONS, {"backend": "gpu"}, "backend is 'gpu'; expected one of"),
}

TYPES_REFUSED = {
    "k": (WORDS, REGIONS, {"k": 2.0}, "k is 2.0; expected an integer"),
    "score": (WORDS, REGIONS, {"score": "released"}, "score is 'released'; expected a gloria_ops.LocalScore"),
    "dtypes": (WORDS, REGIONS.half(), {}, "queries are torch.float32 and corpus torch.float16; expected one dtype"),
    "queries": (WORDS.numpy(), REGIONS, {}, "queries is a ndarray; expected a tensor"),
    "corpus": (WORDS, [[1.0]], {}, "corpus is a list; expected a tensor"),
    "integers": (WORDS, REGIONS.numpy().astype(np.int64), {}, "corpus is an array of int64; expected float16, float32"),
    "byte order": (WORDS, REGIONS.numpy().astype(">f4"), {}, "corpus is an array of >f4; .* this machine's byte order"),
    "offsets": (WORDS, ROWS, {"corpus_offsets": np.array([0.0, 20])}, "corpus_offsets is torch.float64; expected int"),
}


@pytest.mark.parametrize(("queries", "corpus", "settings", "message"), VALUES_REFUSED.values(), ids=VALUES_REFUSED)
def test_values_refused(queries, corpus, settings, message):
    with pytest.raises(ValueError, match=message):
        local_topk(queries, corpus, **{"k": 1, "of": "images"} | settings)


@pytest.mark.parametrize(("queries", "corpus", "settings", "message"), TYPES_REFUSED.values(), ids=TYPES_REFUSED)
def test_types_refused(queries, corpus, settings, message):
    with pytest.raises(TypeError, match=message):
        local_topk(queries, corpus, **{"k": 1, "of": "images"} | settings)


def test_triton_is_not_given_unequal_items_to_attend_to(monkeypatch):
    """Its kernels answer NaN to them, which would rank last in silence."""
    monkeypatch.setattr(backends, "choose", lambda *_: "triton")
    with pytest.raises(NotImplementedError, match=r"lacks packed items of unequal lengths .* the longest has 12 rows"):
        search("images", torch.float32, 1, backend="triton")
    with pytest.raises(NotImplementedError, match="the longest has 7 rows"):
        search("texts", torch.float32, 1, backend="triton")
    padded = []
    monkeypatch.setattr(backends.triton, "forward", lambda *sides: padded.append(sides) or torch.zeros(23, 5))
    local_topk(
        MANY.words.float(), MANY.regions.float(), 1, of="images", corpus_lengths=MANY.region_lengths, backend="triton"
    )
    assert len(padded) == 1


def test_merged_scores_that_are_no_matrix_are_refused():
    with pytest.raises(ValueError, match=r"scores has the shape \(3,\); expected \(Q, n\)"):
        merge_best(None, torch.ones(3), 0, 1)
    with pytest.raises(TypeError, match="scores is a int; expected a tensor"):
        merge_best(None, 3, 0, 1)

"""The CUDA backend's manners: what it refuses, when it is chosen, and how it brings texts into tiles."""

import emulation
import pytest
import torch
from cuda_checks import scores
from problems import PRESETS, problem

from gloria_ops import LocalScore, backends, local_scores
from gloria_ops.backends import cuda
from gloria_ops.backends.cuda import device
from gloria_ops.backends.cuda.pack import pack_words
from gloria_ops.tokens import Ragged

RELEASED = PRESETS["released"]


def test_it_is_never_the_automatic_choice(kernels):
    for dtype in (torch.bfloat16, torch.float16):
        for kind in ("cpu", "cuda"):
            assert backends.choose(None, RELEASED, dtype, torch.device(kind)) != cuda.name


@pytest.mark.parametrize(
    ("dtype", "score", "said"),
    [
        (torch.float32, RELEASED, "bfloat16 and float16, not torch.float32"),
        (torch.bfloat16, LocalScore.scan_t2i(), "lacks word_norm='clipped_l2'"),
        (torch.bfloat16, LocalScore(direction="i2t"), "lacks direction='i2t'"),
        (torch.bfloat16, LocalScore(attention_scale=float("inf")), "hard maximum for word_norm='none'"),
    ],
)
def test_what_it_lacks_is_refused_by_name(kernels, dtype, score, said):
    given = problem("random", 2, 2, 9, 5, 16).to(dtype)
    with pytest.raises(NotImplementedError, match=said) as refused:
        scores(given, score)
    assert "take backend='cpu'" in str(refused.value)


def test_without_the_extension_it_says_how_to_build_it(monkeypatch):
    monkeypatch.setattr(device, "kernels", None)
    monkeypatch.setattr(device, "import_error", "No module named 'gloria_ops._cuda'")
    given = problem("random", 2, 2, 9, 5, 16).to(torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"gloria_ops\._cuda is missing .* nvcc >= 12\.4"):
        scores(given, RELEASED)


def test_more_regions_than_the_kernels_take_are_refused(kernels):
    regions, words = torch.zeros(1, 16385, 8, dtype=torch.bfloat16), torch.zeros(1, 2, 8, dtype=torch.bfloat16)
    with pytest.raises(NotImplementedError, match="16384 regions an image, not 16385; take backend='triton'"):
        local_scores(regions, words, score=RELEASED, backend="cuda")


@pytest.mark.parametrize("most", [3, 60, 128, 129, 512])
def test_every_word_has_a_column_and_texts_stay_in_their_tiles(kernels, most):
    random = torch.Generator().manual_seed(most)
    lengths = torch.randint(1, most + 1, (61,), generator=random)
    lengths[7] = most
    starts = lengths.cumsum(0) - lengths
    texts = Ragged(torch.zeros(int(lengths.sum()), 8, dtype=torch.bfloat16), starts, lengths)
    words = pack_words(texts)
    rows, columns, counts = (words.kept[key] for key in ("rows", "columns", "counts"))
    used = int(counts[1])
    assert rows[:used].flatten().sort().values[-int(lengths.sum()) :].tolist() == list(range(int(lengths.sum())))
    flat = rows.flatten()
    for text, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        column = int(columns[text])
        assert flat[column : column + length].tolist() == list(range(start, start + length))
        assert column % kernels.SLOT == 0
        assert length > kernels.WORDS or column // kernels.WORDS == (column + length - 1) // kernels.WORDS
    runs = list(zip(words.kept["runs"].tolist(), words.kept["spans"].tolist(), strict=True))[: int(counts[0])]
    assert [tile for first, span in runs for tile in range(first, first + span)] == list(range(used))
    # Tiles but the last of each kind are more than half full.
    assert used <= words.tiles
    assert sum(lengths.tolist()) > (used - 2) * kernels.WORDS / 8


def test_real_reports_fill_the_tiles(kernels):
    """Of the columns in use, most are words: 64 reports of 5 to 97 words."""
    lengths = torch.randint(5, 98, (64,), generator=torch.Generator().manual_seed(0))
    texts = Ragged(torch.zeros(int(lengths.sum()), 8, dtype=torch.bfloat16), lengths.cumsum(0) - lengths, lengths)
    words = pack_words(texts)
    assert int(lengths.sum()) >= 0.85 * int(words.kept["counts"][1]) * kernels.WORDS


@pytest.mark.parametrize("name", ["paper", "released"])
def test_the_order_of_texts_permutes_columns(kernels, name):
    given = problem("random", 2, 9, 30, 40, 24).to(torch.bfloat16)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    moved = given._replace(words=given.words[order], word_lengths=given.word_lengths[order])
    assert torch.equal(scores(moved, PRESETS[name]), scores(given, PRESETS[name])[:, order])


@pytest.mark.parametrize("program", ["emulator_test.cpp", "hopper_test.cpp"])
def test_the_emulator_is_right(built, program):
    compiled = emulation.compiled_program(emulation.ROOT / "tests" / "cuda" / program)
    found = emulation.subprocess.run([compiled], capture_output=True, text=True, timeout=120, check=False)
    compiled.unlink()
    assert found.returncode == 0, found.stdout

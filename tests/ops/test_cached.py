"""Micro-batches: the gradients of the whole batch to the last digits, statistics updated once, one micro-batch kept."""

import weakref
from functools import partial

import cached_processes
import numpy as np
import pytest
import torch
from ranks import start
from torch import nn

from gloria_ops import (
    CachedLocalGlobalLoss,
    GlobalContrastiveLoss,
    LocalContrastiveLoss,
    LocalSigmoidLoss,
    distributed,
    in_micro_batches,
    local_contrastive_loss,
)

SIZES = (3, 2, 2)  # of 7 rows, three at most


class Images(nn.Module):
    """(N, 3, 8, 8) to a vector and a map of regions, with batch statistics and dropout; notes what it is given."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout(0.3))
        self.sizes = []

    def forward(self, pixels):
        self.sizes.append(len(pixels))
        hidden = self.layers(pixels).tanh()
        return hidden.mean((2, 3)), hidden * 2


class Texts(nn.Module):
    """(N, W) tokens and their number to a vector, words and lengths."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.layers = nn.Sequential(nn.Linear(12, 12), nn.Dropout(0.2))

    def forward(self, tokens, lengths):
        words = self.layers(self.embedding(tokens))
        return words.mean(1), words, lengths


@pytest.fixture
def pairs():
    images = torch.randn(7, 3, 8, 8, dtype=torch.float64)
    texts = {"tokens": torch.randint(20, (7, 5)), "lengths": torch.tensor([5, 1, 2, 5, 3, 4, 2])}
    return images, texts


@pytest.fixture
def encoders():
    return Images().double(), Texts().double()


def kept_chunks(encode, inputs):
    """The reference: the same micro-batches one after the other, everything kept."""
    parts = [encode(*part) for part in zip(*(each.split(SIZES) for each in inputs), strict=True)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def reference_loss(encoders, images, texts, pair_mask=None):
    vectors, regions = kept_chunks(encoders[0], [images])
    text_vectors, words, lengths = kept_chunks(encoders[1], texts.values())
    local = LocalContrastiveLoss()(regions, words.to(regions.dtype), word_lengths=lengths, pair_mask=pair_mask)
    return sum(local) + 2 * sum(GlobalContrastiveLoss()(vectors, text_vectors, pair_mask=pair_mask))


def gradients(encoders):
    found = {name: each.grad.clone() for encoder in encoders for name, each in encoder.named_parameters()}
    for encoder in encoders:
        encoder.zero_grad()
    return found


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_the_whole_batch_and_statistics_are_updated_once(encoders, pairs, masked):
    mask = None
    if masked:
        mask = torch.ones(7, 7, dtype=torch.bool)
        mask[1, 4] = mask[4, 1] = False
    start = {name: value.clone() for name, value in encoders[0].named_buffers()}
    torch.manual_seed(3)
    expected = reference_loss(encoders, *pairs, mask)
    (3 * expected).backward()
    grads = gradients(encoders)
    after_one_pass = {name: value.clone() for name, value in encoders[0].named_buffers()}
    drawn = torch.rand(1)

    for name, value in encoders[0].named_buffers():
        value.copy_(start[name])
    torch.manual_seed(3)
    loss = CachedLocalGlobalLoss(*encoders, 3, global_weight=2.0)(*pairs, mask)
    (3 * loss).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
    for name, grad in gradients(encoders).items():
        torch.testing.assert_close(grad, grads[name], rtol=1e-12, atol=1e-15, msg=lambda text, name=name: name + text)
        assert grad.abs().max() > 0, name
    assert after_one_pass["layers.1.num_batches_tracked"] == len(SIZES)
    for name, value in encoders[0].named_buffers():
        assert torch.equal(value, after_one_pass[name]), name
    assert torch.equal(torch.rand(1), drawn)  # a replay leaves the generator where the first pass did


def test_without_batch_statistics_and_dropout_it_is_the_whole_batch_at_once(encoders, pairs):
    for encoder in encoders:
        encoder.eval()
    losses = []
    for size in (None, 7, 3, 1):
        losses.append(CachedLocalGlobalLoss(*encoders, size)(*pairs))
        losses[-1].backward()
        grads = gradients(encoders)
        if size is None:
            expected = grads
        torch.testing.assert_close(losses[-1], losses[0], rtol=1e-13, atol=0)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, expected[name], rtol=1e-10, atol=1e-14)


def test_every_micro_batch_is_encoded_twice_the_last_first(encoders, pairs):
    loss = CachedLocalGlobalLoss(*encoders, 3)(*pairs)
    assert encoders[0].sizes == [3, 2, 2]
    loss.backward()
    assert encoders[0].sizes == [3, 2, 2, 2, 2, 3]


class Tracked(np.ndarray):
    """Memory of an activation that can be watched from outside."""

    __hash__ = object.__hash__


def test_activations_of_one_micro_batch_are_kept_at_most():
    watched = weakref.WeakSet()
    counts = []

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, rows):
            activation = np.ones(rows.shape, np.float32).view(Tracked)
            watched.add(activation)
            counts.append(len(watched))
            return self.linear(rows) * torch.from_numpy(activation)

    encoder, rows = Encoder(), torch.randn(8, 6)
    kept = torch.cat([encoder(part) for part in rows.split(2)])
    assert counts.pop() == 4  # the graph keeps every one
    del kept
    counts.clear()
    encoded = in_micro_batches(encoder, rows, 2)
    assert len(watched) == 0
    encoded.square().sum().backward()
    assert counts == [1] * 8
    assert len(watched) == 0


def test_autocast_is_replayed(pairs):
    encoders = Images(), Texts()
    images, texts = pairs[0].float(), pairs[1]
    results = []
    for of in (reference_loss, lambda each, *rest: CachedLocalGlobalLoss(*each, 3, global_weight=2.0)(*rest)):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            loss = of(encoders, images, texts)
        loss.backward()
        results.append((loss, gradients(encoders)))
    (expected, grads), (loss, cached) = results
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for name, grad in cached.items():
        # One bfloat16 rounding apart where sums over micro-batches are taken in another order.
        torch.testing.assert_close(grad, grads[name], rtol=1e-2, atol=1e-3 * float(grads[name].abs().max()))


def test_a_frozen_encoder_is_not_replayed(encoders, pairs):
    encoders[0].requires_grad_(False)
    CachedLocalGlobalLoss(*encoders, 3)(*pairs).backward()
    assert encoders[0].sizes == [3, 2, 2]
    assert all(each.grad is not None for each in encoders[1].parameters())


def test_without_gradients_nothing_is_replayed_or_kept(encoders, pairs):
    with torch.no_grad():
        vectors, regions = in_micro_batches(encoders[0], pairs[0], 3)
    assert not vectors.requires_grad
    assert regions.shape == (7, 12, 3, 3)


def test_backward_may_run_twice(encoders, pairs):
    loss = CachedLocalGlobalLoss(*encoders, 3)(*pairs)
    loss.backward(retain_graph=True)
    first = gradients(encoders)
    loss.backward()
    for name, grad in gradients(encoders).items():
        assert torch.equal(grad, first[name]), name


def test_any_loss_fits(encoders, pairs):
    """A distributed loss takes the place of the local one by its signature."""
    given = {}

    def local(*arguments, **named):
        given.update(named)
        return local_contrastive_loss(*arguments, **named)

    mask = torch.ones(7, 7, dtype=torch.bool)
    CachedLocalGlobalLoss(*encoders, 3, local_loss=local)(*pairs, mask).backward()
    assert sorted(given) == ["pair_mask", "word_lengths"]
    assert given["pair_mask"] is mask


def test_targets_reach_both_losses_and_a_scalar_is_a_loss(encoders, pairs):
    """Distributed losses, which take no pair_mask, are given none."""
    for encoder in encoders:
        encoder.eval()
    images, texts = pairs
    targets = torch.tensor([0, 1, 2, 1, 3, 0, 4])
    local, whole = LocalSigmoidLoss().double(), distributed.GlobalContrastiveLoss()
    vectors, regions = encoders[0](images)
    text_vectors, words, lengths = encoders[1](**texts)
    expected = local(regions, words, word_lengths=lengths, targets=targets)
    expected = expected + sum(GlobalContrastiveLoss()(vectors, text_vectors, targets=targets))
    expected.backward()
    grads = gradients([*encoders, local])
    loss = CachedLocalGlobalLoss(*encoders, 3, local_loss=local, global_loss=whole)(*pairs, targets=targets)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    for name, grad in gradients([*encoders, local]).items():
        torch.testing.assert_close(grad, grads[name], rtol=1e-10, atol=1e-14)


def test_inputs_of_every_form_and_an_output_that_is_one_tensor():
    rows, more = torch.randn(7, 2), torch.randn(7, 2)
    double = nn.Module()
    for inputs, encode in (
        (rows, lambda a: a * 2),
        ((rows, None, more), lambda a, none, b: a + b if none is None else None),
        ({"b": more, "a": rows, "c": None}, lambda a, b, c: a + b if c is None else None),
    ):
        expected = rows * 2 if isinstance(inputs, torch.Tensor) else rows + more
        assert torch.equal(in_micro_batches(encode, inputs, 3, double), expected)


def test_mistakes_are_named():
    rows, linear = torch.randn(7, 2), nn.Linear(2, 2)
    with pytest.raises(ValueError, match="micro_batch_size is 0; expected at least 1, or None"):
        in_micro_batches(linear, rows, 0)
    with pytest.raises(ValueError, match="micro_batch_size is 0; expected at least 1, or None"):
        CachedLocalGlobalLoss(linear, linear, 0)
    with pytest.raises(TypeError, match=r"micro_batch_size is 2\.5; expected at least 1, or None"):
        CachedLocalGlobalLoss(linear, linear, 2.5)
    with pytest.raises(TypeError, match="inputs is 3; expected a tensor"):
        in_micro_batches(linear, 3, 2)
    with pytest.raises(TypeError, match="does not tell whose running statistics it updates; give module="):
        in_micro_batches(lambda each: each, rows, 3)
    with pytest.raises(ValueError, match=r"inputs have \[7, 6\] rows; expected tensors of one number of rows"):
        in_micro_batches(linear, (rows, rows[1:]), 3)
    with pytest.raises(TypeError, match="input 0 is a list; expected a tensor"):
        in_micro_batches(linear, [[1.0]], 3)
    with pytest.raises(ValueError, match=r"encode returned \[3\] rows for 7; expected as many of each"):
        in_micro_batches(lambda each: each.sum(0, keepdim=True), rows, 3, linear)
    with pytest.raises(TypeError, match="encode returned list among its outputs"):
        in_micro_batches(lambda each: (each, [1]), rows, 3, linear)


def test_a_method_tells_its_module():
    model = Images()
    before = model.layers[1].num_batches_tracked.clone()
    sum(each.sum() for each in in_micro_batches(partial(model), torch.randn(7, 3, 8, 8), 3, model)).backward()
    sum(each.sum() for each in in_micro_batches(model.forward, torch.randn(7, 3, 8, 8), 3)).backward()
    assert model.layers[1].num_batches_tracked == before + 6


def test_two_processes_reduce_every_gradient_once(tmp_path):
    start(cached_processes.rank_main, (str(tmp_path),), 2)

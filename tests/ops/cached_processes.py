"""A rank of test_cached.py's distributed test: a step of a replicated model, whole and in micro-batches."""

import torch
import torch.distributed as dist
from ranks import join
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from gloria_ops import CachedLocalGlobalLoss


def encoders():
    """New encoders without dropout or batch statistics, the same in every call."""
    torch.manual_seed(0)
    images = nn.Sequential(nn.Linear(6, 12), nn.Tanh()).double()
    texts = nn.Sequential(nn.Linear(5, 12), nn.Tanh()).double()
    return Pooled(images), Texts(texts)


class Pooled(nn.Module):
    """Regions (N, M, 6) to their mean and themselves."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, regions):
        encoded = self.rows(regions)
        return encoded.mean(1), encoded


class Texts(Pooled):
    """Words (N, W, 5) likewise, all of them real."""

    def forward(self, words):
        vectors, encoded = super().forward(words)
        return vectors, encoded, torch.full((len(words),), words.shape[1])


def gradients(micro_batch_size, images, texts):
    """Gradients of the replicated loss, and how many bytes were reduced over the ranks."""
    model = DistributedDataParallel(CachedLocalGlobalLoss(*encoders(), micro_batch_size))
    reduced = []

    def count(state, bucket):
        reduced.append(bucket.buffer().numel())
        return allreduce_hook(state, bucket)

    model.register_comm_hook(None, count)
    model(images, texts).backward()
    return [parameter.grad for parameter in model.parameters()], sum(reduced)


def rank_main(rank: int, folder: str) -> None:
    join(rank, 2, folder, timeout=120)
    torch.manual_seed(rank + 1)
    images, texts = torch.randn(7, 4, 6).double(), torch.randn(7, 3, 5).double()
    whole, of_whole = gradients(None, images, texts)
    cached, of_cached = gradients(2, images, texts)
    assert of_whole == of_cached == sum(each.numel() for each in whole), (of_whole, of_cached)
    for expected, got in zip(whole, cached, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
        other = [torch.empty_like(got) for _ in range(2)]
        dist.all_gather(other, got)
        assert torch.equal(*other)
    dist.barrier()
    dist.destroy_process_group()

"""What the tests of the late-interaction packages share: an encoder small enough, and a batch with padding."""

import torch
from torch import nn

DTYPES = (torch.float64, torch.float32)


class Encoder(nn.Module):
    """Tokens to vectors of length 1, as the packages' models return them; positive, so that padding wins no maximum."""

    skiplist = (7,)
    do_query_expansion = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(40, 8)

    def forward(self, features, task=None):
        embeddings = nn.functional.normalize(self.embedding(features["input_ids"]).abs(), dim=-1)
        return {"token_embeddings": embeddings, "attention_mask": features["attention_mask"]}


def columns(count: int, widths: tuple[int, ...] = (6, 9, 11, 10), rows: int = 4) -> list[dict[str, torch.Tensor]]:
    """Queries and `count` columns of documents, each padded to its width."""
    made = []
    generator = torch.Generator().manual_seed(5)
    for width in widths[: count + 1]:
        lengths = torch.randint(3, width + 1, (rows, 1), generator=generator)
        tokens = torch.randint(8, 40, (rows, width), generator=generator)
        made.append({"input_ids": tokens, "attention_mask": (torch.arange(width) < lengths).long()})
    return made


def loss_and_gradient(loss, model, *inputs):
    model.zero_grad()
    value = loss(*inputs)
    value.backward()
    return value.detach(), model.embedding.weight.grad.clone()


def positive(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Vectors whose dot products are all above 0, so that no padding wins a maximum."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def signed(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

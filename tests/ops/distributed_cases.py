"""What the tests of gloria_ops.distributed run on each rank: a share of a problem, against the whole of it in one."""

from functools import partial
from itertools import accumulate, product
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from kernel_checks import Results
from problems import PRESETS, problem
from tolerances import BACKWARD, FLOAT32, error, rounding
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from gloria_ops import distributed, functional, modules, sigmoid
from gloria_ops.backends import cpu
from gloria_ops.distributed import functional as of_ranks
from gloria_ops.distributed import gather, global_contrastive_loss, local_contrastive_loss, local_sigmoid_loss
from gloria_ops.distributed.ring import RingScores

EXCHANGES = ("gather", "ring")
# Images of each rank, by the number of ranks.
SHARES = {
    2: {"even": [3, 3], "uneven": [5, 1], "none on one": [0, 6]},
    4: {"even": [2, 2, 2, 2], "uneven": [3, 1, 4, 2], "none on some": [0, 3, 0, 2]},
}
REPORTS = torch.tensor([0, 1, 2, 1, 3, 0, 4, 5, 1, 6])
# Of one process, and of all ranks.
LOSSES = {
    "contrastive": (functional.local_contrastive_loss, local_contrastive_loss),
    "sigmoid": (sigmoid.local_sigmoid_loss, local_sigmoid_loss),
}
EXACT = {"rtol": 1e-12, "atol": 1e-12}


class Whole:
    """A problem and its losses in one process, and this rank's part of it, in a layout that differs from rank to rank.

    Gradients are those of the sum of the losses with respect to regions, words and the scale (of a sigmoid also the
    bias); with 0 where padded. Targets are those of all.
    """

    def __init__(
        self,
        counts,
        dtype=torch.float64,
        grouped=False,
        group=None,
        loss="contrastive",
        targets=None,
        learns=False,
        **settings,
    ):
        self.group, self.counts, self.settings = group, counts, settings
        self.losses_alone, self.losses_together = LOSSES[loss]
        self.learned = ["logit_scale", *["logit_bias"] * (loss == "sigmoid")]
        self.learned += ["attention_scale", "word_scale"] * learns
        self.targets = targets
        self.rank = dist.get_rank(group)
        size = sum(counts)
        given = problem("random", size, size, most_regions=9, most_words=7, width=8).to(dtype)
        real_regions = torch.arange(9) < given.region_lengths[:, None]
        real_words = torch.arange(7) < given.word_lengths[:, None]
        self.regions, self.words = given.regions * real_regions[..., None], given.words * real_words[..., None]
        self.lengths = given.lengths
        self.ids = REPORTS[:size] if grouped else None
        first = sum(counts[: self.rank])
        self.own = slice(first, first + counts[self.rank])

    def alone(self) -> Results:
        """Losses and gradients in this process."""
        regions, words, learned = self._leaves(self.regions, self.words)
        mask = None if self.ids is None else (self.ids[:, None] != self.ids) | torch.eye(len(self.ids)).bool()
        losses = self.losses_alone(
            regions, words, **learned, pair_mask=mask, targets=self.targets, **self.lengths, **self.settings
        )
        leaves = (regions, words, *learned.values())
        grad_regions, grad_words, *grads = torch.autograd.grad(modules.total(losses), leaves)
        return *_parts(losses), grad_regions[self.own], grad_words[self.own], *grads

    def together(self, exchange=None) -> Results:
        """The same from all ranks; the gradients of this rank's sum are averaged as DDP does."""
        region_lengths, word_lengths = (self.lengths[name][self.own] for name in ("region_lengths", "word_lengths"))
        count = len(word_lengths)
        most_regions, most_words = (max([1, *each.tolist()]) for each in (region_lengths, word_lengths))
        regions, words, learned = self._leaves(
            self.regions[self.own, :most_regions].clone(), self.words[self.own, :most_words].clone()
        )
        real = torch.arange(most_words) < word_lengths[:, None]
        given, described = words, {"word_lengths": word_lengths}
        if not count:
            described = {}
        elif self.rank % 3 == 1:
            given, described = words[real], {"word_offsets": F.pad(word_lengths.cumsum(0), (1, 0))}
        elif self.rank % 3 == 2:
            given, described = words.flip(1), {"word_mask": real.flip(1)}
        losses = self.losses_together(
            regions,
            given,
            **described,
            region_lengths=region_lengths if count else None,
            **learned,
            report_ids=None if self.ids is None else self.ids[self.own],
            targets=None if self.targets is None else self.targets[self.own],
            exchange=exchange,
            group=self.group,
            **self.settings,
        )
        modules.total(losses).backward()
        world = dist.get_world_size(self.group)
        for each in learned.values():
            dist.all_reduce(each.grad, group=self.group)
        padded = (
            F.pad(leaf.grad / world, (0, 0, 0, most - leaf.shape[1])) for leaf, most in ((regions, 9), (words, 7))
        )
        losses = (loss.detach() for loss in _parts(losses))
        return *losses, *padded, *(each.grad / world for each in learned.values())

    def _leaves(self, *rows):
        wide = torch.promote_types(rows[0].dtype, torch.float32)
        learned = {name: torch.tensor(3.0, dtype=wide, requires_grad=True) for name in self.learned}
        return *(each.requires_grad_() for each in rows), learned


def _parts(losses):
    return (losses,) if isinstance(losses, torch.Tensor) else losses


def equals_one_process(shares, exchange, **settings):
    whole = Whole(SHARES[dist.get_world_size()][shares], **settings)
    torch.testing.assert_close(whole.together(exchange), whole.alone(), **EXACT)


def targets_equal_one_process(shares, loss, targets):
    """Equal ids on other ranks, or weights of which a rank knows its own rows."""
    counts = SHARES[dist.get_world_size()][shares]
    size = sum(counts)
    given = REPORTS[:size]
    if targets == "weights":
        given = torch.rand(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        given = given * ((torch.arange(size)[:, None] + torch.arange(size)) % 3 != 1)
    for exchange in EXCHANGES:
        whole = Whole(counts, loss=loss, targets=given)
        torch.testing.assert_close(whole.together(exchange), whole.alone(), **EXACT)
    by_default = Whole(counts, loss=loss).alone()
    assert abs(by_default[0] - whole.alone()[0]) > 1e-3


def kernels_equal_one_process(exchange, **settings):
    whole = Whole(SHARES[dist.get_world_size()]["uneven"], dtype=torch.float32, backend="cpu", **settings)
    torch.testing.assert_close(whole.together(exchange), whole.alone(), **FLOAT32)


def bfloat16_errs_no_more_than_in_one_process(exchange):
    counts = SHARES[dist.get_world_size()]["uneven"]
    rounded = Whole(counts, dtype=torch.bfloat16)
    exact = Whole(counts)
    exact.regions, exact.words = rounded.regions.double(), rounded.words.double()
    for ours, alone, truth in zip(rounded.together(exchange), rounded.alone(), exact.alone(), strict=True):
        if truth.dim() == 0:  # float32 sums of the same scores
            torch.testing.assert_close(ours, alone, **FLOAT32)
        else:
            assert error(ours, truth) <= BACKWARD * error(alone, truth) + rounding(ours, truth)


def the_same_bits_again_and_on_every_rank(exchange):
    whole = Whole(SHARES[dist.get_world_size()]["uneven"], dtype=torch.float32, grouped=True)
    first, second = whole.together(exchange), whole.together(exchange)
    losses = [torch.empty(2) for _ in range(dist.get_world_size())]
    dist.all_gather(losses, torch.stack(first[:2]))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert all(torch.equal(each, losses[0]) for each in losses)


def words_are_gathered_up_to_the_limit(least_bytes_of_a_ring):
    """The words of all ranks are 6 or 10 texts of 1 to 7 words, 8 doubles each: between 256 and 8192 bytes."""
    whole = Whole(SHARES[dist.get_world_size()]["uneven"])
    with (
        patch.object(of_ranks, "GATHER_BYTES", least_bytes_of_a_ring - 1),
        patch.object(of_ranks, "RingScores", wraps=RingScores) as ring,
    ):
        whole.together()
    assert ring.apply.called == (least_bytes_of_a_ring < 256)


def what_travels_is_what_the_documentation_counts():
    """Bytes that a rank receives: of words and their gradients by all-gather and all-to-all, by the ring with sums."""
    ranks, block, sums = dist.get_world_size(), 2 * 4 * 8 * 2, 2 * 4 * 8 * 4
    regions, words = (torch.ones(2, rows, 8, dtype=torch.bfloat16, requires_grad=True) for rows in (3, 4))
    received = []

    def count_ring(transfers, pass_on=dist.batch_isend_irecv):
        received.extend(transfer.tensor.nbytes for transfer in transfers if transfer.op is dist.irecv)
        return pass_on(transfers)

    def count_all(output, own, *rest, collective, **keywords):
        if output.dtype == torch.bfloat16:
            received.append(output.nbytes * (ranks - 1) // ranks)
        return collective(output, own, *rest, **keywords)

    for exchange, expected in {
        "ring": 2 * (ranks - 1) * block + ranks * sums,
        "gather": 2 * (ranks - 1) * block,
    }.items():
        received.clear()
        with (
            patch.object(dist, "batch_isend_irecv", count_ring),
            patch.object(gather, "_all_gather_single", partial(count_all, collective=gather._all_gather_single)),
            patch.object(dist, "all_to_all_single", partial(count_all, collective=dist.all_to_all_single)),
        ):
            sum(local_contrastive_loss(regions, words, exchange=exchange)).backward()
        assert sum(received) == expected, (exchange, received)


def a_block_is_asked_for_before_the_one_in_hand_is_scored():
    """And each pair is scored once: backward, kernels recompute what they need in their own backward alone."""
    ranks = dist.get_world_size()
    regions, words = (torch.ones(2, rows, 8, requires_grad=True) for rows in (3, 4))
    events = []

    def tell(what, call, *arguments, **named):
        events.append(what)
        return call(*arguments, **named)

    with (
        patch.object(dist, "batch_isend_irecv", partial(tell, "ask", dist.batch_isend_irecv)),
        patch.object(cpu, "forward", partial(tell, "score", cpu.forward)),
        patch.object(cpu, "backward", partial(tell, "differentiate", cpu.backward)),
    ):
        loss = sum(local_contrastive_loss(regions, words, exchange="ring"))
        assert events == ["ask", "score"] * (ranks - 1) + ["score"]
        events.clear()
        loss.backward()
    words_then_sums = ["ask", "differentiate"] + ["ask", "ask", "differentiate"] * (ranks - 2)
    assert events == [*words_then_sums, "ask", "differentiate", "ask"]


def each_group_has_its_own_batch(exchange):
    """Ranks 0 and 2 have one problem, 1 and 3 another, at the same time."""
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    mine = dist.get_rank() % 2
    whole = Whole([3, 2] if mine else [1, 3], group=groups[mine], grouped=True)
    torch.testing.assert_close(whole.together(exchange), whole.alone(), **EXACT)
    assert_raises(
        ValueError,
        f"group does not contain this process, rank {dist.get_rank()}; expected to be called by its ranks only",
        lambda: local_contrastive_loss(whole.regions, whole.words, group=groups[1 - mine]),
    )


def global_equals_one_process(shares, dtype=torch.float64, **settings):
    counts = SHARES[dist.get_world_size()][shares]
    whole = Whole(counts, dtype=dtype, grouped=True)
    mask = (whole.ids[:, None] != whole.ids) | torch.eye(len(whole.ids)).bool()

    def results(images, texts, losses_of, **masked):
        scale = torch.tensor(7.0, dtype=dtype, requires_grad=True)
        images, texts = images.clone().requires_grad_(), texts.clone().requires_grad_()
        losses = losses_of(images, texts, logit_scale=scale, **masked, **settings)
        sum(losses).backward()
        return *(loss.detach() for loss in losses), images.grad, texts.grad, scale.grad

    images, texts = whole.regions[:, 0], whole.words[:, 0]
    alone = list(results(images, texts, functional.global_contrastive_loss, pair_mask=mask))
    alone[2:4] = (each[whole.own] for each in alone[2:4])
    own = images[whole.own], texts[whole.own]
    together = list(results(*own, global_contrastive_loss, report_ids=whole.ids[whole.own]))
    dist.all_reduce(together[4])
    together[2:] = (each / dist.get_world_size() for each in together[2:])
    torch.testing.assert_close(together, alone, **(EXACT if dtype == torch.float64 else FLOAT32))


class Encoders(torch.nn.Module):
    """One linear layer a side, and both losses with learned scales."""

    def __init__(self, losses):
        super().__init__()
        self.of_images, self.of_texts = torch.nn.Linear(8, 6), torch.nn.Linear(8, 6)
        self.local = losses.LocalContrastiveLoss(learnable_scale=True)
        self.whole = losses.GlobalContrastiveLoss(learnable_scale=True)

    def forward(self, regions, words, **described):
        regions, words = self.of_images(regions), self.of_texts(words)
        lengths = {name: described.pop(name) for name in list(described) if name.endswith("lengths")}
        losses = self.local(regions, words, **lengths, **described)
        return sum(losses) + sum(self.whole(regions[:, 0], words[:, 0], **described))


def ddp_gives_the_gradients_of_the_loss(shares, exchange):
    """As they come from DDP, with nothing multiplied or divided by anyone."""
    whole = Whole(SHARES[dist.get_world_size()][shares], grouped=True)
    torch.manual_seed(1)
    alone = Encoders(modules).double()
    spread = Encoders(distributed).double()
    spread.load_state_dict(alone.state_dict())
    mask = (whole.ids[:, None] != whole.ids) | torch.eye(len(whole.ids)).bool()
    expected = alone(whole.regions, whole.words, pair_mask=mask, **whole.lengths)
    expected.backward()
    own = {"report_ids": whole.ids[whole.own]}
    if whole.counts[whole.rank]:
        own |= {name: each[whole.own] for name, each in whole.lengths.items()}
    limit = 0 if exchange == "ring" else of_ranks.GATHER_BYTES
    with patch.object(of_ranks, "GATHER_BYTES", limit):
        parallel = DistributedDataParallel(spread)
        loss = parallel(whole.regions[whole.own], whole.words[whole.own], **own)
        loss.backward()
    torch.testing.assert_close(loss, expected, **EXACT)
    for (name, ours), theirs in zip(spread.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


def gradients_are_those_of_the_sum_of_what_the_ranks_made_of_it(exchange):
    """Every rank weights its losses by another factor, and the text-to-image one not at all on the last."""
    whole = Whole(SHARES[dist.get_world_size()]["uneven"])
    ranks = dist.get_world_size()

    def gradients(factors, losses_of, rows, **settings):
        leaves = [each.clone().requires_grad_() for each in rows]
        image_to_text, text_to_image = losses_of(*leaves, **settings)
        (factors[0] * image_to_text + factors[1] * text_to_image).backward()
        return [leaf.grad for leaf in leaves]

    mine = (1.0 + whole.rank, 0.5 if whole.rank < ranks - 1 else 0.0)
    own = whole.regions[whole.own], whole.words[whole.own]
    lengths = {name: each[whole.own] for name, each in whole.lengths.items()}
    ours = gradients(mine, local_contrastive_loss, own, exchange=exchange, **lengths)
    total = (ranks * (ranks + 1) / 2, 0.5 * (ranks - 1))
    theirs = gradients(total, functional.local_contrastive_loss, (whole.regions, whole.words), **whole.lengths)
    torch.testing.assert_close(ours, [each[whole.own] for each in theirs], **EXACT)


def frozen_sides_need_nothing(exchange):
    """Without gradients at all, and with those of the regions alone."""
    whole = Whole(SHARES[dist.get_world_size()]["uneven"])
    own = whole.regions[whole.own], whole.words[whole.own]
    lengths = {name: each[whole.own] for name, each in whole.lengths.items()}
    losses = functional.local_contrastive_loss(whole.regions, whole.words, **whole.lengths)
    with torch.no_grad():
        seen = local_contrastive_loss(own[0].requires_grad_(), own[1], exchange=exchange, **lengths)
    torch.testing.assert_close(seen, losses, **EXACT)
    trained = own[0].detach().requires_grad_()
    sum(local_contrastive_loss(trained, own[1], exchange=exchange, **lengths)).backward()
    assert trained.grad.abs().sum() > 0


def a_text_without_an_image_is_named_on_every_rank():
    """The images of all ranks are needed to know it."""
    counts = SHARES[dist.get_world_size()]["uneven"]
    weights = torch.ones(sum(counts), sum(counts)) * (torch.arange(sum(counts)) != 2)
    message = (
        "targets[:, 2] sums to 0, so that this text has no positive; expected a weight above 0 in every row and "
        "column: leave out what has no partner"
    )
    assert_raises(ValueError, message, lambda: Whole(counts, targets=weights).together())
    message = f"targets have 3 columns; expected {sum(counts)}, the texts of all ranks in their order"
    assert_raises(ValueError, message, lambda: Whole(counts, targets=weights[:, 3:6]).together())


def assert_raises(kind, message, call):
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value) == message


ODD_ONE_OUT = {
    "dtype": ({"dtype": torch.float64}, "image dtype is torch.float32 on rank 0 and torch.float64 on rank 1"),
    "width": ({"width": 6}, "width (D) is 5 on rank 0 and 6 on rank 1"),
    "scale": ({"logit_scale": 4.5}, "logit_scale is 10.0 on rank 0 and 4.5 on rank 1"),
    "learned scale": (
        {"logit_scale": torch.tensor(10.0, requires_grad=True)},
        "whether logit_scale needs a gradient is False on rank 0 and True on rank 1",
    ),
    "reduction": ({"reduction": "sum"}, "reduction is 'mean' on rank 0 and 'sum' on rank 1"),
    "exchange": ({"exchange": "ring"}, "exchange is None on rank 0 and 'ring' on rank 1"),
    "ids": ({"report_ids": torch.arange(2)}, "whether there are report_ids is False on rank 0 and True on rank 1"),
    "kind of targets": (
        {"targets": torch.arange(2)},
        "what the targets are is 'none' on rank 0 and 'ids' on rank 1",
    ),
    "frozen": ({"frozen": True}, "whether texts need a gradient is True on rank 0 and False on rank 1"),
    "score": (
        {"score": PRESETS["maxsim"], "logit_scale": 10.0},
        f"score is {PRESETS['released']} on rank 0 and {PRESETS['maxsim']} on rank 1",
    ),
}


def one_rank_differs(name):
    """Rank 1 does, and every rank is told."""
    changed, message = ODD_ONE_OUT[name]
    settings = dict(changed) if dist.get_rank() == 1 else {}
    width, dtype = settings.pop("width", 5), settings.pop("dtype", torch.float32)
    regions = torch.ones(2, 3, width, dtype=dtype, requires_grad=True)
    words = torch.ones(2, 2, width, dtype=dtype, requires_grad=not settings.pop("frozen", False))
    settings.setdefault("backend", "reference")
    assert_raises(
        ValueError,
        f"{message}; expected the same on every rank",
        lambda: local_contrastive_loss(regions, words, **settings),
    )


REFUSED = {
    "lengths": (
        lambda: local_contrastive_loss(torch.ones(2, 3, 5), torch.ones(2, 2, 5), word_lengths=[2, 0]),
        ValueError,
        "word_lengths[1] is 0; expected 1 to 2, the padded length: drop empty items",
    ),
    "counts": (
        lambda: local_contrastive_loss(torch.ones(0, 3, 5), torch.ones(2, 2, 5)),
        ValueError,
        "regions has the shape (0, 3, 5); expected (N_v, M, D) with every size at least 1",
    ),
    "pairs": (
        lambda: local_contrastive_loss(torch.ones(3, 3, 5), torch.ones(2, 2, 5)),
        ValueError,
        "there are 3 images (N_v) and 2 texts (N_t); expected as many of one as of the other, image i with text i: "
        "drop what has no partner, or take local_scores",
    ),
    "exchange": (
        lambda: local_contrastive_loss(torch.ones(2, 3, 5), torch.ones(2, 2, 5), exchange="tree"),
        ValueError,
        "exchange is 'tree'; expected 'gather', 'ring', or None for the choice by size",
    ),
    "kind of ids": (
        lambda: local_contrastive_loss(torch.ones(2, 3, 5), torch.ones(2, 2, 5), report_ids=torch.ones(2)),
        TypeError,
        "report_ids is torch.float32; expected integers, equal for equal reports",
    ),
    "ids": (
        lambda: local_contrastive_loss(torch.ones(2, 3, 5), torch.ones(2, 2, 5), report_ids=torch.arange(3)),
        ValueError,
        "report_ids has the shape (3,); expected (2,), one for each",
    ),
    "no positive": (
        lambda: local_contrastive_loss(
            torch.ones(2, 3, 5), torch.ones(2, 2, 5), targets=torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        ),
        ValueError,
        "targets[1] sums to 0, so that this image has no positive; expected a weight above 0 in every row and column: "
        "leave out what has no partner",
    ),
    "no probability": (
        lambda: local_sigmoid_loss(torch.ones(2, 3, 5), torch.ones(2, 2, 5), targets=torch.eye(2) * 2),
        ValueError,
        "targets[0, 0] is 2; expected 0 to 1, the probability that the pair belongs together: divide by the greatest",
    ),
    "bias": (
        lambda: local_sigmoid_loss(torch.ones(2, 3, 5), torch.ones(2, 2, 5), logit_bias=torch.ones(2)),
        ValueError,
        "logit_bias has the shape (2,); expected a finite number, or a tensor of one element",
    ),
    "ids twice": (
        lambda: local_sigmoid_loss(
            torch.ones(2, 3, 5), torch.ones(2, 2, 5), report_ids=torch.arange(2), targets=torch.arange(2)
        ),
        ValueError,
        "report_ids and targets are both given; expected one of them: as report_ids, equal reports of other pairs take "
        "no part in the loss, as targets they are positives",
    ),
    "no tensor": (
        lambda: local_contrastive_loss([1.0], torch.ones(2, 2, 5)),
        TypeError,
        "regions is a list; expected a tensor: torch.as_tensor(regions)",
    ),
    "backend": (
        lambda: local_contrastive_loss(torch.ones(2, 3, 5), torch.ones(2, 2, 5), backend="gpu"),
        ValueError,
        "backend is 'gpu'; expected one of 'cpu', 'triton', 'reference', 'cuda', or None for the automatic choice",
    ),
    "vectors": (
        lambda: global_contrastive_loss(torch.ones(2, 5), torch.ones(2, 4)),
        ValueError,
        "image_vectors are (2, 5) on cpu and text_vectors (2, 4) on cpu; expected one width and one device",
    ),
}


def one_rank_is_refused(name):
    """The last rank raises what it would raise alone, the others say that it did."""
    call, kind, message = REFUSED[name]
    last = dist.get_world_size() - 1
    if dist.get_rank() == last:
        assert_raises(kind, message, call)
    else:
        told = f"rank {last} refused its arguments, so no rank can go on: {message}"
        assert_raises(RuntimeError, told, lambda: local_contrastive_loss(torch.ones(2, 3, 5), torch.ones(2, 2, 5)))


def someone_must_have_an_image():
    message = f"none of the {dist.get_world_size()} ranks has an image; expected at least one on one rank"
    nothing = torch.ones(0, 5, 3, 4), torch.ones(0, 5)  # feature maps and packed words
    assert_raises(ValueError, message, lambda: local_contrastive_loss(*nothing))
    assert_raises(ValueError, message, lambda: global_contrastive_loss(torch.ones(0, 5), torch.ones(0, 5)))


def different_losses_do_not_meet():
    local = dist.get_rank() == 0
    call = (
        partial(local_contrastive_loss, torch.ones(2, 3, 5), torch.ones(2, 2, 5))
        if local
        else partial(global_contrastive_loss, torch.ones(2, 5), torch.ones(2, 5))
    )
    assert_raises(ValueError, "loss is 'local' on rank 0 and 'global' on rank 1; expected the same on every rank", call)


def autocast_casts_as_in_one_process():
    """Also on a rank without images: its float32 is cast as that of the others is."""
    counts = SHARES[dist.get_world_size()]["none on one" if dist.get_world_size() == 2 else "none on some"]
    with torch.autocast("cpu", torch.bfloat16):
        together = Whole(counts, dtype=torch.float32).together("ring")
    alone = Whole(counts, dtype=torch.bfloat16).alone()
    torch.testing.assert_close(together[:2], alone[:2], **FLOAT32)


def words_held(exchange, group):
    """Greatest number of bytes in use at once by a loss and its backward pass, beyond the inputs."""
    regions, words = torch.ones(2, 2, 512, requires_grad=True), torch.ones(2, 256, 512, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        sum(local_contrastive_loss(regions, words, exchange=exchange, group=group)).backward()
    changes = [event.nbytes() for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(changes))


def a_ring_of_four_holds_as_much_as_one_of_two():
    """Gathered words do not: the measure tells the two apart. A block of words is 1 MiB."""
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    two = groups[dist.get_rank() // 2]
    held = {
        (ranks, exchange): words_held(exchange, group)
        for ranks, group in ((2, two), (4, None))
        for exchange in EXCHANGES
    }
    assert held[4, "ring"] < held[2, "ring"] + 2**17, held
    assert held[4, "gather"] > held[2, "gather"] + 2**21, held


def cases(ranks: int) -> dict[str, partial]:
    """By name, all that `ranks` processes run."""
    every = {
        "overlap": partial(a_block_is_asked_for_before_the_one_in_hand_is_scored),
        "bytes": partial(what_travels_is_what_the_documentation_counts),
        "autocast": partial(autocast_casts_as_in_one_process),
        "nobody has an image": partial(someone_must_have_an_image),
        "two losses": partial(different_losses_do_not_meet),
        "a text without an image": partial(a_text_without_an_image_is_named_on_every_rank),
    }
    for exchange in EXCHANGES:
        for name, score in PRESETS.items():
            every[f"{name}, {exchange}"] = partial(equals_one_process, "uneven", exchange, score=score, grouped=True)
            every[f"{name}, float32, {exchange}"] = partial(kernels_equal_one_process, exchange, score=score)
        for shares in SHARES[ranks]:
            every[f"{shares}, {exchange}"] = partial(equals_one_process, shares, exchange, reduction="sum")
            every[f"{shares}, regions attend, {exchange}"] = partial(
                equals_one_process, shares, exchange, score=PRESETS["scan_i2t"]
            )
            every[f"learned scales, {shares}, {exchange}"] = partial(equals_one_process, shares, exchange, learns=True)
            every[f"DDP, {shares}, {exchange}"] = partial(ddp_gives_the_gradients_of_the_loss, shares, exchange)
        for name, case in {
            "bfloat16": bfloat16_errs_no_more_than_in_one_process,
            "the same bits": the_same_bits_again_and_on_every_rank,
            "factors": gradients_are_those_of_the_sum_of_what_the_ranks_made_of_it,
            "frozen": frozen_sides_need_nothing,
        }.items():
            every[f"{name}, {exchange}"] = partial(case, exchange)
        every[f"sigmoid, {exchange}"] = partial(equals_one_process, "uneven", exchange, loss="sigmoid", grouped=True)
        if ranks == 4:
            every[f"groups, {exchange}"] = partial(each_group_has_its_own_batch, exchange)
    if ranks == 4:
        every["memory"] = partial(a_ring_of_four_holds_as_much_as_one_of_two)
    for shares in SHARES[ranks]:
        for loss, targets in product(LOSSES, ("ids", "weights")):
            every[f"{loss}, {targets}, {shares}"] = partial(targets_equal_one_process, shares, loss, targets)
        every[f"global, {shares}"] = partial(global_equals_one_process, shares)
        every[f"global, {shares}, float32"] = partial(
            global_equals_one_process, shares, dtype=torch.float32, reduction="sum"
        )
    for least in (1, 8192):
        every[f"gathered below {least} bytes"] = partial(words_are_gathered_up_to_the_limit, least)
    every |= {f"another {name}": partial(one_rank_differs, name) for name in ODD_ONE_OUT}
    every |= {f"refused {name}": partial(one_rank_is_refused, name) for name in REFUSED}
    return every

"""The losses of 2 and 4 ranks are those of one process: values, gradients, errors; each world starts once."""

import functools
import json

import missing_ranks
import pytest
import torch
from distributed_cases import cases
from problems import problem
from ranks import run, start

from gloria_ops import distributed, functional
from gloria_ops.distributed.targets import contrasted_pairs

WORLDS = (2, 4)


@functools.cache
def failures(world):
    return run(cases(world), world)


@pytest.mark.parametrize(("world", "name"), [(world, name) for world in WORLDS for name in cases(world)])
def test_ranks(world, name):
    assert not failures(world)[name], failures(world)[name]


def test_one_process_without_a_group_is_the_plain_loss():
    one = problem("random", 4, 4, most_regions=5, most_words=3, width=8)
    ids = torch.tensor([5, 2, 5, 1], dtype=torch.int32)
    mask = (ids[:, None] != ids) | torch.eye(4).bool()
    ours = distributed.local_contrastive_loss(one.regions, one.words, report_ids=ids, **one.lengths)
    assert ours == functional.local_contrastive_loss(one.regions, one.words, pair_mask=mask, **one.lengths)
    vectors = one.regions[:, 0], one.words[:, 0]
    ours = distributed.GlobalContrastiveLoss(logit_scale=3.0)(*vectors, report_ids=ids)
    assert ours == functional.global_contrastive_loss(*vectors, logit_scale=3.0, pair_mask=mask)
    assert ours != distributed.GlobalContrastiveLoss(logit_scale=3.0)(*vectors)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1, 2], TypeError, "report_ids is a list; expected a tensor of integers"),
        (torch.ones(2, dtype=torch.bool), TypeError, "report_ids is torch.bool; expected integers"),
        (
            torch.zeros(2, 1, dtype=torch.int64),
            ValueError,
            r"shape \(2, 1\); expected \(2,\), one for each",
        ),
    ],
)
def test_ids_refused_in_one_process(ids, error, message):
    with pytest.raises(error, match=message):
        distributed.local_contrastive_loss(torch.ones(2, 3, 4), torch.ones(2, 3, 4), report_ids=ids)


def test_contrasted_pairs_of_the_second_rank():
    pairs = contrasted_pairs(torch.tensor([2, 5]), torch.tensor([5, 2, 5, 2]), first=1)
    assert pairs.tolist() == [[True, True, True, False], [False, True, True, True]]


def test_a_missing_rank_is_an_error(tmp_path):
    """One that never comes, and one that dies between forward and backward."""
    start(missing_ranks.rank_main, (str(tmp_path),), 2)
    late, dead = json.loads((tmp_path / "errors.json").read_text())
    assert "imed out" in late
    assert dead  # what the transport says of it, or the timeout again

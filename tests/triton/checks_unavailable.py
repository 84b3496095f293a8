"""Not interpreted and without a GPU, the backend says so, and what it lacks it names."""

import dataclasses

import pytest
import torch

from gloria_ops import LocalScore
from gloria_ops.backends import triton as backend


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_unavailable_names_the_reason_and_the_way_to_test():
    assert backend.unavailable() == (
        "there is no CUDA device; for tests on CPU tensors set TRITON_INTERPRET=1 before Python starts"
    )


def test_cpu_tensors_are_refused():
    reason = backend.unsupported(LocalScore.released(), torch.float32, torch.device("cpu"))
    assert reason == "it computes on cuda tensors, not on cpu"


def test_every_knob_of_text_to_image_is_claimed_but_the_hard_maximum_of_a_norm_and_the_norms_of_scan():
    hard = dataclasses.replace(LocalScore.released(), attention_scale=float("inf"))
    assert backend.lacks(LocalScore.maxsim(), torch.bfloat16) is None
    assert "hard maximum for word_norm='none'" in backend.lacks(hard, torch.bfloat16)
    assert "lacks word_norm='l1': it has 'none', 'softmax', 'clipped_l2'" in backend.lacks(
        LocalScore(word_norm="l1"), torch.bfloat16
    )
    assert "lacks direction='i2t'" in backend.lacks(LocalScore.scan_i2t(), torch.bfloat16)
    assert "not torch.float64" in backend.lacks(LocalScore.released(), torch.float64)

"""The drop-in against ColPali's engine as installed: scores, losses called directly, and the patch."""

from importlib.util import find_spec

import pytest
import torch
from late_interaction import signed
from tolerances import FLOAT32

from gloria_ops.dropin import colpali_engine as ours

REASON = "colpali_engine is not installed: make test-peers"
if find_spec("colpali_engine"):
    # torchvision's wheels on PyPI load with torch's CUDA libraries alone; these operators are what its import asks for.
    _LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, _name):
            _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
theirs = pytest.importorskip("colpali_engine.utils.maxsim", reason=REASON, exc_type=ImportError)
losses = pytest.importorskip("colpali_engine.loss", reason=REASON, exc_type=ImportError)
processing = pytest.importorskip("colpali_engine.utils.processing_utils", reason=REASON, exc_type=ImportError)

QUERIES, DOCUMENTS = signed(4, 5, 8, seed=1), signed(4, 2, 7, 8, seed=2)
QUERIES[1, 3:], DOCUMENTS[0, 0, 4:], DOCUMENTS[2, 1, 2:] = 0, 0, 0  # padding, as its models make it


@pytest.fixture
def patched():
    ours.patch()
    yield
    ours.unpatch()


def results(function, *given):
    leaves = [each.clone().requires_grad_() for each in given]
    scores = function(*leaves)
    weights = torch.rand(scores.shape, generator=torch.Generator().manual_seed(6))
    return scores.detach(), *torch.autograd.grad((scores * weights).sum(), leaves)


def test_scores():
    given = QUERIES, DOCUMENTS[:, 0]
    torch.testing.assert_close(results(ours.maxsim_inbatch, *given), results(theirs.maxsim_inbatch, *given), **FLOAT32)
    given = QUERIES, DOCUMENTS
    torch.testing.assert_close(results(ours.maxsim_kd, *given), results(theirs.maxsim_kd, *given), **FLOAT32)


@pytest.mark.parametrize(
    "name", ["Colbert", "ColbertNegativeCE", "ColbertPairwiseCE", "ColbertPairwiseNegativeCE", "ColbertSigmoid"]
)
def test_losses_where_patched(patched, name):
    loss = getattr(losses, f"{name}Loss")()
    unit = [torch.nn.functional.normalize(each, dim=-1) for each in (QUERIES, DOCUMENTS[:, 0], DOCUMENTS)]
    given = unit if "Negative" in name else unit[:2]
    module = losses.late_interaction_losses
    assert module.maxsim_inbatch is ours.maxsim_inbatch
    found = results(loss, *given)
    ours.unpatch()
    assert module.maxsim_inbatch is theirs.maxsim_inbatch is not ours.maxsim_inbatch
    torch.testing.assert_close(found, results(loss, *given), **FLOAT32)


def test_scores_of_a_processor_where_patched(patched):
    score = processing.BaseVisualRetrieverProcessor.score_multi_vector
    given = [QUERIES[0], QUERIES[1, :3]], [DOCUMENTS[0, 0, :4], DOCUMENTS[1, 0]]
    found = score(*given, device="cpu")
    ours.unpatch()
    torch.testing.assert_close(found, score(*given, device="cpu"), **FLOAT32)

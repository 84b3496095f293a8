"""Every kernel configuration that ships, compiled for GPUs that are not there, just as the launchers ask for it."""

import pytest
import torch
from checking import SCORES
from problems import LEARNED_SCORES

from bench import gpu_code, gpu_launches
from gloria_ops.backends.triton import block_sizes
from gloria_ops.learnable import Learnable

# What a block may have of the shared memory; kernels for 86 run on 89 too.
SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
# Several chunks of images and texts; texts without padding, as a training step packs them.
SIZES = gpu_launches.Sizes(images=40, regions=361, texts=400, words=18_000, width=768)
# dtype, and for float32 the matmul precision that torch is asked for
DTYPES = {
    "bfloat16": (torch.bfloat16, "highest"),
    "float16": (torch.float16, "highest"),
    "float32": (torch.float32, "highest"),
    "tf32x3": (torch.float32, "high"),
}
# Every score in bfloat16 where its kernels differ most from each other, elsewhere the two presets; in other dtypes the
# score that takes every kernel of the split way.
CASES = [(90, "bfloat16", score) for score in SCORES if score != "released, agg mean"]
CASES += [(capability, "bfloat16", score) for capability in (80, 86, 100, 120) for score in ("released", "paper")]
CASES += [(capability, dtype, "released") for capability in (80, 90) for dtype in DTYPES if dtype != "bfloat16"]
CASES += [(80, "bfloat16", name) for name in ("a scale that needs the maximum", "scan_t2i", "maxsim")]
CASES += [(90, "tf32x3", "paper")]


@pytest.mark.parametrize(("capability", "dtype_name", "score_name"), CASES, ids=lambda each: str(each))
def test_kernels_keep_to_the_device(capability, dtype_name, score_name):
    dtype, float32 = DTYPES[dtype_name]
    score = SCORES[score_name]
    choice = block_sizes.chosen(capability, dtype, score)
    torch.set_float32_matmul_precision(float32)
    try:
        launches = gpu_launches.of_forward(SIZES, dtype, score, choice)
        launches += gpu_launches.of_backward(SIZES, dtype, score, choice)
    finally:
        torch.set_float32_matmul_precision("highest")
    check_code(launches, capability, dtype_name)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype_name", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["released", "softmax_pool", "paper_mean", "smooth_max", "maxsim_mean"])
def test_kernels_of_what_is_learned_keep_to_the_device(name, dtype_name, capability):
    dtype, score = DTYPES[dtype_name][0], LEARNED_SCORES[name]
    choice = block_sizes.chosen(capability, dtype, score)
    scale = None if name == "maxsim_mean" else torch.empty((), device="meta")
    learnable = Learnable(torch.empty(SIZES.words, device="meta"), scale, scale)
    launches = gpu_launches.of_forward(SIZES, dtype, score, choice, learnable)
    launches += gpu_launches.of_backward(SIZES, dtype, score, choice, learnable)
    # The others are those of every score.
    check_code(
        [each for each in launches if {"scale", "grad_weights", "similarities"} & set(each.arguments)],
        capability,
        dtype_name,
    )


def check_code(launches, capability, dtype_name):
    wrong = {}
    for launch in launches:
        code = gpu_code.code_of(launch, capability)
        faults = []
        if code.spilled_bytes:
            faults.append(f"spills {code.spilled_bytes} bytes")
        if code.shared_bytes > SHARED_BYTES[capability]:
            faults.append(f"takes {code.shared_bytes} bytes of shared memory")
        if multiplies(launch) and dtype_name != "float32" and not code.tensor_cores:
            faults.append("does not run on tensor cores")
        if capability == 90 and multiplies(launch) and dtype_name == "bfloat16" and "wgmma" not in code.tensor_cores:
            faults.append(f"multiplies by {code.tensor_cores}")
        # sm_100 and up read their matrix instructions from a memory of their own, which the listing does not show.
        if capability <= 90 and multiplies(launch) and dtype_name != "float32" and not code.in_products:
            faults.append("has no loop with a product")
        if code.tensor_cores and code.narrow_loads():
            faults.append(f"{code.narrow_loads()} loads of single values feed a product")
        if faults:
            wrong[launch.name] = faults
    assert not wrong, wrong


def multiplies(launch):
    # Without a cosine the last kernel only adds up and rounds.
    return "PRECISION" in launch.arguments and "K" in launch.arguments and launch.arguments.get("COSINE", True)


@pytest.mark.parametrize("score_name", SCORES)
def test_a_call_launches_few_kernels(score_name):
    """One chunk of images and of texts, as of a batch of 32: what the host must do takes as long as the kernels."""
    sizes = gpu_launches.Sizes(images=32, regions=361, texts=32, words=1_489, width=768)
    score = SCORES[score_name]
    choice = block_sizes.chosen(90, torch.bfloat16, score)
    assert len(gpu_launches.of_forward(sizes, torch.bfloat16, score, choice)) < 12
    assert len(gpu_launches.of_backward(sizes, torch.bfloat16, score, choice)) < 20


def test_other_batches_compile_nothing_more():
    """The kernels of any number of images and texts are the same, one chunk or many."""

    def kernels(images, texts, words):
        sizes = gpu_launches.Sizes(images, 361, texts, words, 768)
        score = SCORES["released"]
        choice = block_sizes.chosen(90, torch.bfloat16, score)
        launches = gpu_launches.of_forward(sizes, torch.bfloat16, score, choice)
        launches += gpu_launches.of_backward(sizes, torch.bfloat16, score, choice)
        return {(launch.name, gpu_code.specialization(launch)) for launch in launches}

    # In one chunk of images nothing is left to a rest.
    assert kernels(1, 1, 7) == kernels(7, 13, 500)
    assert kernels(64, 1000, 40_000) == kernels(1023, 17, 900)

"""A problem as the launchers take it: the two sides, the plan, the packed words, and what follows from the shapes."""

import math
from functools import cached_property
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from gloria_ops.backends.triton import pack
from gloria_ops.backends.triton.block_sizes import INTERPRETED, Blocks, Choice, Elementwise
from gloria_ops.backends.triton.plan import Plan, plan
from gloria_ops.learnable import FIXED, Learnable
from gloria_ops.score import LocalScore
from gloria_ops.tokens import Ragged

# Bytes of everything that is kept for one chunk of texts with one chunk of images; a single image may take LARGEST.
WORKSPACE_BYTES = 384 << 20
LARGEST_BYTES = 512 << 20
# Images of a chunk: one dimension of a grid, which ends at 65,535.
MOST_IMAGES = 32_768
# Attention scales up to which exp(scale (x - 1/2)) needs no maximum: float32 holds the squares of its sums, and what is
# divided by them. A softmax over words is at least 0, a clipped L2 norm -1.
BOUNDED_SCALES = {"softmax": 20.0, "clipped_l2": 10.0}
# With the symmetric half of G, |c|^2 through it is less work up to M = 1.8 D.
GRAM_UP_TO = 1.8


class Precision(NamedTuple):
    """How products are taken.

    scratch: dtype of packed rows and of what lies between two products.
    affinity: that of the stored affinities, which become their gradient in `scratch`.
    product: Triton's precision of products.
    """

    scratch: torch.dtype
    affinity: torch.dtype
    product: str


def precision(dtype: torch.dtype, float32: str | None = None) -> Precision:
    """float32 rows follow torch.get_float32_matmul_precision(): "highest" is exact, below it three TF32 products.

    float16 rows are float32 between the products, and multiplied as TF32: of the same mantissa, but |v|^2 may exceed
    what float16 holds.
    """
    if dtype == torch.bfloat16:
        return Precision(torch.bfloat16, torch.float16, "ieee")
    if dtype == torch.float16:
        return Precision(torch.float32, torch.float32, "tf32")
    exact = (float32 or torch.get_float32_matmul_precision()) == "highest"
    return Precision(torch.float32, torch.float32, "ieee" if exact else "tf32x3")


class Chunk(NamedTuple):
    """Some images with the texts of one chunk of the plan.

    packed_regions: (columns, packed D), `side` rows of each image, zeros in whole steps behind the last one's;
    region_norms: (2, columns) float32, the norms and their inverses.
    """

    first_image: int
    images: int
    number: int
    packed_regions: Tensor
    region_norms: Tensor


class Problem:
    """Two sides, a score, and what of it comes as tensors.

    Every image must own at most L_v // N_v rows, as padded images do.

    Attributes:
        blocks: block sizes of the kernels.
        precision: how products are taken.
        longest: the most rows that an image may own.
        side: rows of an image in scratch, a multiple of 16.
        dim: D in whole steps of the products.
        plan: of the texts.
        packed_words, word_norms, origins: see `pack.pack_words`.
    """

    def __init__(
        self,
        images: Ragged,
        texts: Ragged,
        score: LocalScore,
        choice: Choice,
        split: bool,
        learnable: Learnable = FIXED,
    ) -> None:
        self.images, self.texts = (Ragged(*(each.contiguous() for each in side)) for side in (images, texts))
        self.score = score
        self.learnable = Learnable(*(None if each is None else each.contiguous() for each in learnable))
        rows = self.texts.rows
        self.blocks = choice
        self.precision = precision(rows.dtype)
        self.longest = self.images.rows.shape[0] // self.images.starts.numel()
        self.side = triton.cdiv(self.longest, 16) * 16
        step = max(blocks.step for blocks in self.blocks.products)
        self.dim = triton.cdiv(rows.shape[1], step) * step
        self.plan: Plan = plan(self.texts, choice.chunk_words if split else None)
        self.packed_words = self.empty(rows.shape[0] + pack.STEP, self.dim, dtype=self.precision.scratch)
        self.word_norms = self.empty(2, rows.shape[0])
        self.origins = self.empty(rows.shape[0], dtype=torch.int64)
        pack.pack_words(self.texts, self.plan, self.packed_words, self.word_norms, self.origins)

    @cached_property
    def processors(self) -> int:
        """Multiprocessors of the device; as many as an H100 has where there is none."""
        device = self.texts.rows.device
        return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132

    @property
    def cosine(self) -> bool:
        """Whether the contexts' norms are needed."""
        return self.score.similarity == "cosine"

    @property
    def smooth(self) -> bool:
        """Whether u is a smooth maximum; with a hard one it is what the dot product is."""
        return self.score.similarity == "smooth_max" and not self.hard

    @property
    def hard(self) -> bool:
        """Whether the best regions have all of the attention, and there is none to compute."""
        return math.isinf(self.score.attention_scale)

    @property
    def normed(self) -> bool:
        """Whether affinities are stored as s / (|t| |v|)."""
        return self.precision.affinity == torch.float16

    @property
    def log2(self) -> bool:
        """Whether affinities are taken in the unit of exp2, by a factor that they are multiplied with in any case."""
        return self.normed and self.score.word_norm == "softmax"

    @property
    def bounded(self) -> bool:
        """Whether the attention needs no maximum: what it is a softmax of lies in [-1, 1], and 8 bits are kept of it.

        Among float32 numbers the one that is all of an attention must be 1, so that its gradient is exactly 0.
        """
        by_score = self.cosine and self.score.attention_scale <= BOUNDED_SCALES.get(self.score.word_norm, 0.0)
        known = self.learnable.attention_scale is None
        return known and by_score and self.precision.scratch == torch.bfloat16

    @property
    def by_gram(self) -> bool:
        """Whether contexts' norms come from the Gram matrices where that is accurate."""
        return self.longest <= GRAM_UP_TO * self.images.rows.shape[1]

    @property
    def scale(self) -> float | Tensor:
        """The attention scale, or where it lies; 0 for the hard maximum, which takes none."""
        if self.learnable.attention_scale is not None:
            return self.learnable.attention_scale
        return 0.0 if self.hard else self.score.attention_scale

    @property
    def word_scale(self) -> float | Tensor:
        """The scale of the pool, or where it lies."""
        return self.score.word_scale if self.learnable.word_scale is None else self.learnable.word_scale

    @cached_property
    def programs(self) -> int:
        """Programs of an elementwise kernel for one block of regions: the texts of a chunk, if all are alike."""
        return triton.cdiv(self.texts.starts.numel(), self.plan.chunks)

    @property
    def gram_side(self) -> int:
        """The side in whole blocks of the Gram matrix."""
        return triton.cdiv(self.side, self.blocks.square.columns) * self.blocks.square.columns

    @property
    def packed_bytes(self) -> int:
        """Of the packed regions of an image."""
        return self.side * (self.dim * self.precision.scratch.itemsize + 4)

    @property
    def statistics(self) -> int:
        """Numbers that are kept of the attention of a word with an image."""
        return 3 * self.planes(self.blocks.attention)

    def planes(self, blocks: Elementwise) -> int:
        """Blocks of regions of an image."""
        return triton.cdiv(self.side, blocks.regions)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Scratch on the device."""
        return torch.empty(shape, dtype=dtype, device=self.texts.rows.device)

    def columns(self, images: int) -> int:
        """Of the affinities with some images, in whole steps."""
        return triton.cdiv(images * self.side, pack.STEP) * pack.STEP

    @property
    def rows(self) -> int:
        """Of the affinities with a chunk of texts, in whole blocks of every product."""
        return triton.cdiv(self.plan.capacity, 256) * 256

    def images_at_once(self, bytes_of_image: int) -> int:
        """Images of a chunk.

        Raises:
            NotImplementedError: one image alone exceeds the workspace.
        """
        if bytes_of_image > LARGEST_BYTES:
            raise NotImplementedError(
                f"backend='triton' keeps {bytes_of_image >> 20} MiB for one image of {self.longest} regions, beyond "
                f"its {LARGEST_BYTES >> 20} MiB; take fewer regions, or backend='reference'"
            )
        return max(1, min(self.images.starts.numel(), MOST_IMAGES, WORKSPACE_BYTES // bytes_of_image))

    def image_chunks(self, at_once: int) -> list[Chunk]:
        """The images, `at_once` at a time, whose packed regions share memory."""
        packed = self.empty(self.columns(at_once), self.dim, dtype=self.precision.scratch)
        norms = self.empty(2, self.columns(at_once))
        count = self.images.starts.numel()
        return [Chunk(first, min(at_once, count - first), 0, packed, norms) for first in range(0, count, at_once)]

    def pack_regions(self, chunk: Chunk) -> None:
        """Fill the packed regions of a chunk of images."""
        packed, norms = chunk.packed_regions, chunk.region_norms
        pack.pack_regions(self.images, chunk.first_image, chunk.images, self.longest, self.side, packed, norms)

    def product_arguments(self, blocks: Blocks) -> dict[str, Any]:
        """What every kernel with a product is specialized for and launched with."""
        return {
            "M": blocks.main,
            "N": blocks.columns,
            "K": blocks.step,
            "PRECISION": self.precision.product,
            "UPCAST": INTERPRETED and self.precision.scratch == torch.bfloat16,
            "num_warps": blocks.warps,
            "num_stages": blocks.stages,
        }

    def image_arguments(self, chunk: Chunk) -> dict[str, Any]:
        """What a kernel takes that looks at the regions of single images."""
        return {
            "region_lengths": self.images.lengths,
            "dense_starts": self.plan.dense_starts,
            "first_texts": self.plan.first_texts,
            "chunk": chunk.number,
            "first_image": chunk.first_image,
            "longest": self.longest,
        }

    def found_arguments(self, found: Tensor) -> dict[str, Any]:
        """Statistics of the attention by block of regions, (3 or 4, planes, images, capacity)."""
        return {
            "found": found,
            "capacity": self.plan.capacity,
            "plane": found.stride(1),
            "planes": found.shape[1],
            "scale": self.scale,
            "LOG2": self.log2,
        }

    def elementwise_arguments(self, chunk: Chunk, blocks: Elementwise) -> dict[str, Any]:
        """What a kernel over affinities takes."""
        return {
            **self.image_arguments(chunk),
            "word_norms": self.word_norms[0],
            "region_norms": chunk.region_norms[0],
            "side": self.side,
            "capacity": self.plan.capacity,
            "texts_at_once": self.plan.texts_at_once,
            "scale": self.scale,
            "NORM": self.score.word_norm,
            "NORMED": self.normed,
            "LOG2": self.log2,
            "PRECISION": self.precision.product,
            "W": blocks.words,
            "R": blocks.regions,
            "num_warps": blocks.warps,
        }

    def found(self, at_once: int, means: bool = False) -> Tensor:
        """Memory for these statistics, with those that only the gradient of the attention scale needs."""
        return self.empty(4 if means else 3, self.planes(self.blocks.attention), at_once, self.plan.capacity)

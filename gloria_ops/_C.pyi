"""Types of the compiled kernels; see csrc/bindings.cpp."""

import enum

class DType(enum.Enum):
    float32 = ...
    bfloat16 = ...
    float16 = ...

class WordNorm(enum.Enum):
    none = ...
    softmax = ...
    clipped_l2 = ...

class Pool(enum.Enum):
    logsumexp = ...
    max = ...
    mean = ...
    sum = ...
    softmax = ...

class Ragged:
    def __init__(self, rows: int, starts: int, lengths: int, count: int, row_count: int) -> None: ...
    def fills(self, row_count: int) -> bool: ...

class Problem:
    def __init__(
        self,
        *,
        dtype: DType,
        dim: int,
        images: Ragged,
        texts: Ragged,
        word_norm: WordNorm,
        attention_scale: float,
        cosine: bool,
        pool: Pool,
        word_scale: float,
        pool_mean: bool,
        pool_divide: bool,
        search_words: int,
        threads: int,
        stage_nanoseconds: int,
        smooth_max: bool,
        word_weights: int,
    ) -> None: ...

class Kept:
    def __init__(self, regions: int, words: int) -> None: ...

STAGES: list[str]

def available_isas() -> list[str]: ...
def forward(problem: Problem, scores: int, best: Kept, isa: str) -> None: ...
def backward(
    problem: Problem,
    grad_scores: int,
    best: Kept,
    grad_regions: int,
    grad_words: int,
    grad_word_weights: int,
    grad_attention_scale: int,
    grad_word_scale: int,
    isa: str,
) -> None: ...
def exponential(dtype: DType, x: int, out: int, count: int, isa: str) -> None: ...

"""LocalScore: the knobs of the local score as one frozen dataclass, with a preset for each published formula."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

WordNorm = Literal["none", "softmax", "clipped_l2", "l2", "l1", "clipped_l1", "clipped"]
Similarity = Literal["dot", "cosine", "smooth_max"]
Pool = Literal["logsumexp", "softmax", "max", "mean", "sum"]
Direction = Literal["t2i", "i2t"]

# Kernels multiply in float32, to whose normal numbers these are rounded inward; one over a temperature is a scale.
SCALES = 1.2e-38, 3.4e38
TEMPERATURES = 1.2e-38, 8.3e37


@dataclass(frozen=True)
class LocalScore:
    """How the local score Z of one image with one text is made from its regions v_j and words t_i.

    With the affinity s_ij = <t_i, v_j>::

        x_ij = word_norm(s_ij)                                over the words of the text, for each region
        a_ij = softmax_j(attention_scale * x_ij)              attention of word i over the regions
        c_i  = sum_j a_ij v_j                                 context of word i
        u_i  = similarity(c_i, t_i)
        Z    = pool_i(u_i)

    The defaults are those of `LocalScore.released()`. All scales are plain multipliers.

    Attributes:
        word_norm: "none"; "softmax"; "clipped_l2" = LeakyReLU(0.1), then division by (L2 norm over the words + 1e-8).
            SCAN's others are in no kernel, only in the reference: "l2" and "l1" = the division alone, by that norm;
            "clipped_l1"; "clipped" = LeakyReLU(0.1) alone.
        attention_scale: 1.2e-38 to 3.4e38; infinity takes the hard maximum: the best regions share the attention
            evenly, and no gradient passes through the attention.
        similarity: "dot" = <c, t>; "cosine" = <c, t> / max(|c| |t|, 1e-8); "smooth_max" =
            log(sum_j exp(attention_scale * s_ij)) / attention_scale, a smooth maximum of the affinities instead of
            attention (ColPali's use_smooth_max), for word_norm "none" only.
        pool: "logsumexp" = log(sum_i exp(word_scale * u_i)); "softmax" = sum_i softmax(word_scale * u)_i u_i (X-CLIP's
            attention over the similarities); "max"; "mean"; "sum".
        word_scale: 1.2e-38 to 3.4e38; read by pool "logsumexp" and "softmax" only.
        pool_mean: mean instead of sum inside the logarithm of pool "logsumexp".
        pool_divide: divide the logarithm of pool "logsumexp" by word_scale.
        direction: "t2i" = words attend to regions; "i2t" = regions attend to words, the same formula with the two
            exchanged.
        logit_scale: 1.2e-38 to 3.4e38; multiplies Z in the contrastive loss, never in the scores.

    Raises:
        ValueError: a knob outside the values above, or similarity "smooth_max" with a word_norm.
        TypeError: a scale that is no number, a flag that is no bool.
    """

    word_norm: WordNorm = "softmax"
    attention_scale: float = 4.0
    similarity: Similarity = "cosine"
    pool: Pool = "logsumexp"
    word_scale: float = 5.0
    pool_mean: bool = False
    pool_divide: bool = False
    direction: Direction = "t2i"
    logit_scale: float = 10.0

    def __post_init__(self) -> None:
        for name, choices in (
            ("word_norm", WordNorm),
            ("similarity", Similarity),
            ("pool", Pool),
            ("direction", Direction),
        ):
            _check_choice(name, getattr(self, name), get_args(choices))
        for name in ("attention_scale", "word_scale", "logit_scale"):
            scale = checked_scale(name, getattr(self, name), infinite=name == "attention_scale")
            object.__setattr__(self, name, scale)
        for name in ("pool_mean", "pool_divide"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is {getattr(self, name)!r}; expected True or False")
        if self.similarity == "smooth_max" and self.word_norm != "none":
            raise ValueError(
                f"similarity is 'smooth_max' with word_norm {self.word_norm!r}; expected word_norm='none': the smooth "
                "maximum is one of plain affinities"
            )

    @classmethod
    def paper(cls, tau2: float, tau3: float) -> "LocalScore":
        """The formulas of the GLoRIA paper: no word norm, dot product, Z = log((sum_i exp(u_i / tau3))^tau3).

        Args:
            tau2: temperature of the attention softmax and of the loss, 1.2e-38 to 8.3e37.
            tau3: temperature of the pooling over words, in the same range.
        """
        tau2, tau3 = checked_scale("tau2", tau2, TEMPERATURES), checked_scale("tau3", tau3, TEMPERATURES)
        return cls(
            word_norm="none",
            attention_scale=1 / tau2,
            similarity="dot",
            word_scale=1 / tau3,
            pool_divide=True,
            logit_scale=1 / tau2,
        )

    @classmethod
    def released(cls) -> "LocalScore":
        """What the authors' released code runs: temp1 = 4, temp2 = 5, temp3 = 10, agg = "sum".

        For agg = "mean": `dataclasses.replace(LocalScore.released(), pool_mean=True)`.
        """
        return cls()

    @classmethod
    def damsm(cls) -> "LocalScore":
        """The words loss of AttnGAN's DAMSM: gamma1 = 4, gamma2 = 5, gamma3 = 10."""
        return cls(attention_scale=4.0, word_scale=5.0, logit_scale=10.0)

    @classmethod
    def scan_t2i(cls, pool: Pool = "logsumexp") -> "LocalScore":
        """SCAN, text to image: lambda_softmax 9, lambda_lse 6, for unit vectors and a hinge loss (logit_scale 1)."""
        return cls(
            word_norm="clipped_l2", attention_scale=9.0, pool=pool, word_scale=6.0, pool_divide=True, logit_scale=1.0
        )

    @classmethod
    def scan_i2t(cls, pool: Pool = "logsumexp") -> "LocalScore":
        """SCAN, image to text: lambda_softmax 4, lambda_lse 5, for unit vectors and a hinge loss (logit_scale 1)."""
        return cls(
            word_norm="clipped_l2",
            attention_scale=4.0,
            pool=pool,
            word_scale=5.0,
            pool_divide=True,
            direction="i2t",
            logit_scale=1.0,
        )

    @classmethod
    def maxsim(cls) -> "LocalScore":
        """Late interaction (ColBERT, ColPali, FILIP): sum over words of the best dot product; logit_scale 1."""
        return cls(word_norm="none", attention_scale=math.inf, similarity="dot", pool="sum", logit_scale=1.0)


def checked_scale(name: str, value: Any, within: tuple[float, float] = SCALES, infinite: bool = False) -> float:
    """Return a scale, or a temperature, as a float.

    Raises:
        TypeError, ValueError: it is not a number, or not in the range (nor infinity, where `infinite` allows it).
    """
    least, greatest = within
    expected = f"a number from {least:g} to {greatest:g}, within float32{', or infinity' if infinite else ''}"
    if isinstance(value, bool) or not hasattr(value, "__float__") or hasattr(value, "requires_grad"):
        raise TypeError(f"{name} is {value!r}; expected {expected}")
    value = float(value)
    if not (least <= value <= greatest or (infinite and value == math.inf)):
        raise ValueError(f"{name} is {value}; expected {expected}")
    return value


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}")

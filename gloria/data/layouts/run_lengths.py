"""Run-length masks as SIIM-ACR ships them: column by column, each start relative to the end of the run before it."""

import numpy as np

from gloria.messages import shown

EMPTY = "-1"


def decode_runs(runs: str, height: int, width: int) -> np.ndarray:
    """Return the mask (height, width) bool of pairs "skip length", whose pixels are counted down the columns.

    Args:
        runs: "-1", with blanks around it or not, is an empty mask.
        height: of the image, in pixels.
        width: likewise.

    Raises:
        ValueError: anything else than such pairs; runs that end beyond the image.
    """
    mask = np.zeros(height * width, dtype=bool)
    words = [] if runs.strip() == EMPTY else runs.split()
    if len(words) % 2 or not all(word.isascii() and word.isdigit() for word in words) or not (words or runs.strip()):
        raise ValueError(f"the runs are {shown(runs)}; expected -1, or pairs of a number to skip and a length")
    end = 0
    for skip, length in zip(words[::2], words[1::2], strict=True):
        start = end + int(skip)
        end = start + int(length)
        if end > mask.size:
            raise ValueError(
                f"the runs end at pixel {end} of an image of {height} x {width}; expected the image that they were "
                f"drawn on, with {end} pixels or more"
            )
        mask[start:end] = True
    return mask.reshape(width, height).T


def encode_runs(mask: np.ndarray) -> str:
    """Return the runs of a mask (height, width) bool, as `decode_runs` takes them."""
    edges = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False, append=False))
    return " ".join(map(str, np.diff(edges, prepend=0))) or EMPTY

"""Scales pixels of any depth to bytes: integers by the smallest usual depth that holds them, other values stretched."""

import numpy as np

BIT_DEPTHS = (8, 10, 12, 14, 16)


def eight_bit(values: np.ndarray) -> np.ndarray:
    """Scale pixels to bytes.

    Integers from 0 to 65535 are scaled by the smallest depth of 8, 10, 12, 14 or 16 bits that holds the brightest one,
    because 12-bit radiographs usually come in 16-bit files. Floats within [0, 1] are scaled by 255. Anything else is
    stretched from its minimum to its maximum. The last of four channels is alpha: it is scaled separately, from 0.

    Args:
        values: (H, W), (H, W, 3) or (H, W, 4) of any real dtype, not empty.

    Returns:
        uint8, in the shape of `values`.

    Raises:
        ValueError: a pixel that is not finite.
    """
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if not np.isfinite(values).all():
        raise ValueError("the image has pixels that are not finite; replace NaN and infinities first")
    integral = np.issubdtype(values.dtype, np.integer)
    if values.ndim == 3 and values.shape[2] == 4:
        alpha = values[..., 3]
        opaque = _depth_top(float(alpha.max())) if integral else max(1.0, float(alpha.max()))
        return np.dstack([eight_bit(values[..., :3]), _scale_to_bytes(np.maximum(alpha, 0), 0, opaque)])
    low, high = float(values.min()), float(values.max())
    if integral and low >= 0 and high < 2 ** BIT_DEPTHS[-1]:
        low, high = 0, _depth_top(high)
    elif not integral and low >= 0 and high <= 1:
        low, high = 0, 1
    return _scale_to_bytes(values, low, high)


def _depth_top(brightest: float) -> float:
    """Return the top value of the smallest usual depth that holds the brightest pixel, else the brightest pixel."""
    return next((2**depth - 1 for depth in BIT_DEPTHS if brightest < 2**depth), brightest)


def _scale_to_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if high - low < 1e-300:  # nothing to stretch: black, like the padding
        return np.zeros(values.shape, np.uint8)
    scaled = np.multiply(values, 0.5, dtype=np.float64)  # halved, since high - low may be beyond doubles
    low, high = low / 2, high / 2
    scaled -= low
    scaled *= 255 / (high - low)
    return np.rint(scaled, out=scaled).astype(np.uint8)

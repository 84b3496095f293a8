"""Shows color: makes RGB bytes of three samples a pixel, or of palette indices."""

import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_color_lut

from gloria.depth import eight_bit
from gloria.dicom.stored import PALETTE
from gloria.dicom.tables import read_table

CHANNELS = ("Red", "Green", "Blue")


def show_color(data: Dataset, stored: np.ndarray) -> np.ndarray:
    """Show stored color pixels; no window is applied, since windows are for gray.

    Args:
        data: the pixels' data set, complete.
        stored: (H, W) palette indices, or (H, W, 3) in RGB.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: a missing or damaged palette.
    """
    if data.PhotometricInterpretation == PALETTE:
        return _apply_palette(data, stored)
    if data.BitsStored < 8:
        return np.rint(np.minimum(stored, 2**data.BitsStored - 1) * (255 / (2**data.BitsStored - 1))).astype(np.uint8)
    return eight_bit(stored)


def _apply_palette(data: Dataset, stored: np.ndarray) -> np.ndarray:
    if "SegmentedRedPaletteColorLookupTableData" in data:
        count, _, bits = data.RedPaletteColorLookupTableDescriptor
        if bits == 8 and not 0 < count <= 256:
            raise ValueError(f"its segmented palette has {count} entries of 8 bits; expected 1 to 256")
        colors = apply_color_lut(stored, data)[..., :3]
        return colors if bits == 8 else np.rint(colors / 257).astype(np.uint8)
    tables = []
    for channel in CHANNELS:
        name = f"{channel}PaletteColorLookupTable"
        try:
            tables.append(read_table(data, data.get(f"{name}Descriptor"), data.get(f"{name}Data")))
        except ValueError as error:
            raise ValueError(f"{name} is damaged: {error}") from error
    # Entries of 8 bits are often declared as entries of 16.
    top = 255 if max(table.entries.max() for table in tables) < 256 else 65535
    return np.stack([np.rint(table(stored) * (255 / top)).astype(np.uint8) for table in tables], axis=-1)

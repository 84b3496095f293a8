"""Caches framed pixels in a folder, so that each image file is decoded and resized once."""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np

from gloria.durable import write_whole
from gloria.images import GloriaImageProcessor

VERSION = 2  # of the cached pixels; raise it when reading or framing an image changes


class PixelCache:
    """Keeps framed images as .npy files, one for each image, version of its file and processor settings.

    A file is decoded again when its size or time of modification changes; a file that disappears is an error, as
    without a cache. Gray images take one byte a pixel. Several processes may share a folder.

    Args:
        folder: created if it is missing; may be deleted at any time.
        image_processor: frames the images.
    """

    def __init__(self, folder: str | Path, image_processor: GloriaImageProcessor) -> None:
        self.folder, self.image_processor = Path(folder), image_processor
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, image: Path) -> np.ndarray:
        """Return `GloriaImageProcessor.frame` of the file: (crop_size, crop_size, 3) uint8, read-only.

        Raises:
            OSError, ValueError: the file cannot be read.
        """
        kept = self._path_of(image)
        side = self.image_processor.crop_size
        try:
            framed = np.load(kept, allow_pickle=False)
            if framed.dtype == np.uint8 and framed.shape in ((side, side, 1), (side, side, 3)):
                return np.broadcast_to(framed, (side, side, 3))
        except (OSError, ValueError, EOFError):
            pass  # not cached yet, or cut off when another run ended
        framed = self.image_processor.frame(image)
        gray = (framed == framed[:, :, :1]).all()
        try:
            kept.parent.mkdir(exist_ok=True)
            write_whole(kept, lambda partial: _save(partial, framed[:, :, :1] if gray else framed), flushed=False)
        except OSError as error:  # usually a full disk: the image itself is good
            warnings.warn(
                f"the cache {self.folder} keeps no more images: {error.__cause__ or error}; they are decoded again",
                stacklevel=2,
            )
        return framed

    def _path_of(self, image: Path) -> Path:
        state = image.stat()
        processor = self.image_processor
        key = [VERSION, str(image.absolute()), state.st_mtime_ns, state.st_size, processor.size, processor.crop_size]
        name = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.npy"


def _save(path: Path, pixels: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would append .npy to a path
        np.save(file, pixels)

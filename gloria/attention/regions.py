"""Tells where the regions of a model lie in an image: the rectangle that their grid divides evenly."""

from transformers import PretrainedConfig

from gloria.images import GloriaImageProcessor

View = tuple[float, float, float, float]  # left, top, right, bottom


def regions_view(
    config: PretrainedConfig, processor: GloriaImageProcessor, width: int, height: int, grid: tuple[int, int]
) -> View:
    """Return the rectangle that the regions divide evenly, each region around its center.

    Args:
        config: the `GloriaConfig` of the model.
        processor: image processor of the model.
        width: width of the result of `to_rgb`, in pixels.
        height: height of the same image, in pixels.
        grid: (H, W), the model's regions.

    Returns:
        left, top, right, bottom in pixels of the image, as in `GloriaImageProcessor.field_of_view`. For a ResNet the
        two rectangles differ: odd kernels with symmetric padding center output i of a stride s on input pixel s i, so
        19 regions of 299 pixels begin half a stride before the first pixel. Cutting the square evenly would be off by
        up to half a region. Patches, and the regions of other encoders, divide the square evenly.
    """
    left, top, right, bottom = processor.field_of_view(width, height)
    x, y = (right - left) / processor.crop_size, (bottom - top) / processor.crop_size
    (first_row, last_row), (first_column, last_column) = (
        regions_extent(config, processor.crop_size, each) for each in grid
    )
    return left + first_column * x, top + first_row * y, left + last_column * x, top + last_row * y


def regions_extent(config: PretrainedConfig, seen: int, regions: int) -> tuple[float, float]:
    """Return where a row of regions begins and ends in a square of `seen` pixels."""
    image = config.image_config
    if config.region_stage is not None and image.model_type == "resnet":
        # The stem halves twice, each stage but the first once.
        stage = image.stage_names.index(config.region_stage)
        step = 2.0 ** (2 + max(0, stage - 1) + (stage > 0 and image.downsample_in_first_stage))
        return 0.5 - step / 2, 0.5 - step / 2 + step * regions
    patch = getattr(image, "patch_size", None) if config.region_stage is None else None
    # A plain vision transformer drops the pixels that do not fill a patch.
    return 0.0, float(patch * regions) if isinstance(patch, int) else float(seen)

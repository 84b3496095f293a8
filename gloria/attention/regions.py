"""Where the regions of a model lie in an image: their grid, as a rectangle of the image that it divides evenly."""

from transformers import PretrainedConfig

from gloria.images import GloriaImageProcessor

View = tuple[float, float, float, float]  # left, top, right, bottom


def regions_view(
    config: PretrainedConfig, processor: GloriaImageProcessor, width: int, height: int, grid: tuple[int, int]
) -> View:
    """Return the rectangle that the regions divide evenly, each around the point that it is centered on.

    Args:
        config: the `GloriaConfig` of the model.
        processor: what makes the model's square of an image.
        width: of the image as `to_rgb` gives it, in pixels.
        height: likewise.
        grid: (H, W), the regions that the model makes of the square.

    Returns:
        left, top, right, bottom in pixels of the image, as in `GloriaImageProcessor.field_of_view`, from which it
        differs for a ResNet: odd kernels with symmetric padding center output i of a stride s on input pixel s i, so
        that 19 regions of 299 pixels begin half a stride before the first pixel. Cutting the square evenly instead
        would be off by up to half a region. Patches, and what other encoders make, divide the square evenly.
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
    # A plain vision transformer leaves out what does not fill a patch.
    return 0.0, float(patch * regions) if isinstance(patch, int) else float(seen)

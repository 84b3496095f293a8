"""From what the encoders give of a whole image or text to the shared space: linear layers, and selective pooling."""

from torch import Tensor, nn

DROPOUT = 0.5  # DSVE's, of the pooled image


def projection(width: int, projected_width: int, layers: int) -> nn.Module:
    """Return one linear layer, or two with a ReLU between (ConVIRT's head, Zhang et al., 2020)."""
    first = nn.Linear(width, projected_width)
    if layers == 1:
        return first
    return nn.Sequential(first, nn.ReLU(), nn.Linear(projected_width, projected_width))


class SelectivePooling(nn.Module):
    """DSVE's pooling of an image (Engilberge et al., 2018): in each channel the extremes of a map, not its mean.

    Args:
        channels: of the feature map.
        pooled_channels: of the 1 x 1 convolution that goes before.
        regions: how many of the largest values, and of the smallest, are averaged; all, of a map that has fewer.
    """

    def __init__(self, channels: int, pooled_channels: int, regions: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, pooled_channels, kernel_size=1)
        self.dropout = nn.Dropout(DROPOUT)
        self.regions = regions

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, pooled_channels) of a map (B, channels, H, W): the mean of the largest plus that of the smallest.

        Dropout is part of it.
        """
        values = self.convolution(features).flatten(2)
        count = min(self.regions, values.shape[2])
        extremes = (values.topk(count, largest=largest).values.mean(2) for largest in (True, False))
        return self.dropout(sum(extremes))

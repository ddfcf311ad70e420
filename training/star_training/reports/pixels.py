"""Images of any number of channels, as figures show them."""

from torch import Tensor


def as_colours(images: Tensor) -> Tensor:
    """Returns images in RGB: (..., C, H, W) -> (..., 3, H, W), the first three channels, or the first as grey."""
    if images.shape[-3] >= 3:
        return images[..., :3, :, :]
    return images[..., :1, :, :].expand(*images.shape[:-3], 3, *images.shape[-2:])

"""Mean and standard deviation of pixels, estimated from the images to train on where a recipe says "auto"."""

from dataclasses import replace

import torch

from star_zoo import Policy

from ..data import Source
from ..data.sources.raw import evenly_spaced
from ..data.views import MultiViewDataset, stack

_IMAGES = 1024  # evenly spaced over the data set, in order
_DIGITS = 4


def estimated(policy: Policy, source: Source, channels: int) -> Policy:
    """Returns the policy with the statistics of pixels in the base views of a fixed sample of images.

    Raises ValueError if a channel has a single value in all of them, because it can't be normalised.
    """
    plain = replace(policy, mean=(0.0,) * channels, std=(1.0,) * channels)
    dataset = MultiViewDataset(source, plain, lambda height, width, _: plain.base(height, width)[None], seed=0)
    total, squares, count = torch.zeros(channels).double(), torch.zeros(channels).double(), 0
    for index in evenly_spaced(len(source), _IMAGES).tolist():
        batch = stack([dataset[0, index]]).batch()
        pixels = plain.apply(batch.views[0], batch.params[0])[0].flatten(1).double()
        total, squares, count = total + pixels.sum(1), squares + pixels.square().sum(1), count + pixels.shape[1]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    if flat := (std < 10**-_DIGITS).nonzero().flatten().tolist():
        raise ValueError(
            f"channel {flat[0] + 1} of {source.name} has one value in all images that were sampled, so it can't be "
            "normalised; leave it out of the images, or give policy.mean and policy.std with --set"
        )
    digits = [tuple(round(value, _DIGITS) for value in values.tolist()) for values in (mean, std)]
    return replace(policy, mean=digits[0], std=digits[1])

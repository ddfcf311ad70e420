"""The smallest backbone with a group. Letters: B images, S image size, D features, G elements of the group."""

import torch
from torch import Tensor, nn

from star_zoo.groups import AveragePool, Group, GroupConv, LiftConv
from twins import MEAN, STD


class Small(nn.Module):
    """A small group backbone of D features with random weights."""

    num_features = head_hidden_size = 24
    num_classes = 0

    def __init__(self, group: Group, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            lift, conv = LiftConv(group, 3, 8, 5), GroupConv(group, 8, self.num_features)
        self.group, self.layers = group, nn.Sequential(lift, nn.ReLU(), AveragePool(), conv, nn.ReLU())
        self.pretrained_cfg = {"input_size": (3, 32, 32), "mean": MEAN, "std": STD}

    def regular_features(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.regular_features(x).mean(2)

"""A pytest plugin that breaks one row before star_models_only.py registers it: the suite has to notice."""

from star_zoo import star_backbones

star_backbones.default_cfgs["star_resnet10t"].cfgs["cifar10"].pool_size = (3, 3)  # is (2, 2)

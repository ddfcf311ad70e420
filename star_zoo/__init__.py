"""Equivariance-aware self-supervised backbones for timm. Importing the package registers the `star_*` models."""

from star_catalog import store as store
from star_catalog import zoo as zoo
from star_catalog.zoo import NotAvailable as NotAvailable

from . import released as released
from . import star_backbones as star_backbones
from . import wrapped_model as wrapped_model
from .augmentations import Policy as Policy
from .encoder import Encoder as Encoder
from .hub import install as install
from .hub import load_objective as load_objective
from .losses import nt_xent as nt_xent
from .objectives import Batch as Batch
from .objectives import FeatureObjective as FeatureObjective
from .objectives import Objective as Objective
from .saving import save_pretrained as save_pretrained

__version__ = "0.1.0"

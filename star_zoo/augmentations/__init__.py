"""Augmentations with explicit parameters, which are drawn first and applied second."""

from .base import Augmentation as Augmentation
from .base import Framing as Framing
from .blur import Blur as Blur
from .color import ColorJitter as ColorJitter
from .color import Grayscale as Grayscale
from .color import Invert as Invert
from .color import Solarize as Solarize
from .crop import Crop as Crop
from .geometry import Flip as Flip
from .geometry import Jigsaw as Jigsaw
from .geometry import QuarterTurn as QuarterTurn
from .geometry import VerticalFlip as VerticalFlip
from .policy import Policy as Policy
from .spirograph import Spirograph as Spirograph

"""Where images come from: folders, Parquet packs, tar shards, torchvision and Hugging Face data sets, spirographs.

`open_source` returns the `Source` for a user's specification; views, loaders and protocols use only that interface.
"""

from .decode import UndecodableImage as UndecodableImage
from .decode import decode as decode
from .sources.base import BadImageWarning as BadImageWarning
from .sources.base import DataError as DataError
from .sources.base import NoSuchSplit as NoSuchSplit
from .sources.base import Source as Source
from .sources.open import open_source as open_source

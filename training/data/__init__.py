"""Where images come from: folders, Parquet packs, tar shards, torchvision and Hugging Face data sets, spirographs.

`open_source` turns what the user typed into a `Source`; what follows (views, loaders, protocols) knows only that.
"""

from .decode import UndecodableImage as UndecodableImage
from .decode import decode as decode
from .open import open_source as open_source
from .source import BadImageWarning as BadImageWarning
from .source import DataError as DataError
from .source import NoSuchSplit as NoSuchSplit
from .source import Source as Source

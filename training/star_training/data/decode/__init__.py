"""Decodes image files of any kind to tensors of the number of channels that a model takes."""

from .deep import ARRAY_SUFFIX as ARRAY_SUFFIX
from .errors import UndecodableImage as UndecodableImage
from .images import FORMATS as FORMATS
from .images import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from .images import MOST_ENCODED as MOST_ENCODED
from .images import UNREADABLE_SUFFIXES as UNREADABLE_SUFFIXES
from .images import As as As
from .images import Decoded as Decoded
from .images import Encoded as Encoded
from .images import Jpeg as Jpeg
from .images import Picture as Picture
from .images import decode as decode
from .images import decode_stored as decode_stored
from .images import decoded_size as decoded_size
from .images import opened as opened
from .images import undecodable as undecodable
from .orientation import orientation_of as orientation_of

"""The exception for data that can't be used; it stands below decoding, which lets it pass."""

from star_catalog.printing import printable


class DataError(ValueError):
    """The data can't be used as requested; the message states the input, the problem and the way out, in one line."""

    def __init__(self, message: str = ""):
        super().__init__(printable(message))

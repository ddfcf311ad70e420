"""The exception for data that can't be used; it stands below decoding, which lets it pass."""


class DataError(ValueError):
    """The data can't be used as requested; the message states the input, the problem and the way out."""

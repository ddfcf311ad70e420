"""The exception for data that can't be used; it stands below decoding, which lets it pass."""


class DataError(ValueError):
    """The data can't be used as requested; the message states the input, the problem and the way out, in one line."""

    def __init__(self, message: str = ""):
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Returns the text with non-printable characters escaped, because file names may contain any character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)

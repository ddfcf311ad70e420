"""The error of an image that can't be decoded."""


class UndecodableImage(Exception):
    """An image can't be decoded; the message is the reason. Sources count these errors and never let one escape."""

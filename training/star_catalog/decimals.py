"""Numbers as text, in tables, cards, pages and messages. A number that rounds to 0 is 0, without a sign."""

_SMALLEST = 6  # decimals, at which a number with significant digits is 0


def fixed(value: float, digits: int, sign: str = "") -> str:
    """Returns a number with so many decimals: 2.5 -> "2.50", -0.001 -> "0.00"; `sign` "+" marks positive ones."""
    text = f"{value:{sign}.{digits}f}"
    return text if float(text) else text.lstrip("+-")


def significant(value: float, digits: int = 4, sign: str = "") -> str:
    """Returns a number with so many significant digits: 0.123456 -> "0.1235", -8.7e-19 -> "0"; `sign` as in `fixed`."""
    return f"{value:{sign}.{digits}g}" if float(fixed(value, _SMALLEST)) else "0"

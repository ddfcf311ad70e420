"""Text for a terminal: one line, whatever characters the names of files, classes and data sets have."""

import shlex


def printable(text: str) -> str:
    """Returns the text with non-printable characters escaped, e.g. a line break as two characters, "\\n"."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def as_typed(*words: object) -> str:
    """Returns words of a command as they are typed in a shell, on one line of printable characters."""
    return " ".join(map(_word, map(str, words)))


def _word(text: str) -> str:
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, text))}'"  # of Bash, Zsh and others, which read escapes in it


def _escaped(character: str) -> str:
    if character.isprintable():
        return f"\\{character}" if character in "\\'" else character
    if 0xDC80 <= (code := ord(character)) <= 0xDCFF:  # a byte of a file name that is no UTF-8
        return f"\\{code - 0xDC00:03o}"
    return f"\\{code:03o}" if code < 0x80 else f"\\U{code:08x}"

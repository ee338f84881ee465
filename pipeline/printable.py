"""Text that came from a file, made safe to show."""


def printable(text: str, keep: str = "") -> str:
    r"""Show what a terminal would obey, or could not encode, as visible escapes: control characters, lone surrogates.

    Args:
        text: Such as a file or class name: it may hold anything, even ESC sequences and letters that turn the line.
        keep: Characters that stay as they are.

    Returns:
        The text; what is not printable stands as `\x1b`, `\u202e` or `\U000e0001`.
    """
    return "".join(
        letter if letter.isprintable() or letter in keep else letter.encode("unicode_escape").decode()
        for letter in text
    )

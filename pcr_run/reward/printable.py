"""What may be shown of a hostile value: text without control characters, of bounded length."""

LENGTH = 200


def printable(value: object) -> str:
    """``str(value)`` on one line; characters that a terminal would obey or hide are replaced."""
    try:
        text = str(value)
    except Exception as problem:  # a number of 5,000 digits, a list nested too deeply, a __str__ that raises
        text = f"a {type(value).__name__} without text ({type(problem).__name__})"
    return "".join(" " if char.isspace() else char if char.isprintable() else "\ufffd" for char in text[:LENGTH])


def described(problem: BaseException) -> str:
    """An exception's class and text."""
    return printable(f"{type(problem).__name__}: {printable(problem)}")

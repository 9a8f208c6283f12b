"""Which text can be kept: what UTF-8 can encode and PostgreSQL can store."""


def is_storable(text: str) -> bool:
    """Whether it holds neither NUL, which PostgreSQL refuses, nor a lone surrogate, which UTF-8 does."""
    if "\x00" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

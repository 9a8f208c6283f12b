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


def storable(value: str | None, limit: int | None = None) -> str | None:
    """What a text column can hold: NUL and lone surrogates become U+FFFD. The body keeps them."""
    if value is None:
        return None
    value = value[:limit] if limit else value
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")

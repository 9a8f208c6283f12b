"""JSON text laid out for reading, to the letter: no number and no string of it is written otherwise."""

import re

_SIGN = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}\[\],:]|[^\s{}\[\],:"]+|\s+')
_OPENING, _CLOSING = "{[", "}]"

# Deeper than this nothing is moved in any more.
DEEPEST = 40


def laid_out(text: str) -> str:
    """What is not JSON comes back as it is, as does what was cut off, up to there."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    pieces: list[str] = []
    depth = 0
    before = ""
    for found in _SIGN.finditer(text):
        sign = found[0]
        if sign.isspace():
            continue
        if sign in _CLOSING:
            depth = max(0, depth - 1)
            if before not in _OPENING or not before:
                pieces.append(_line(depth))
        elif before and before in _OPENING + ",":
            pieces.append(_line(depth))
        pieces.append(": " if sign == ":" else sign)
        if sign in _OPENING:
            depth += 1
        before = sign
    return "".join(pieces)


def _line(depth: int) -> str:
    return "\n" + "  " * min(depth, DEEPEST)

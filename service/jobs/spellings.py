"""How text may stand in JSON: as it is or escaped, as whoever wrote it down likes to."""

import re

# What JSON has a short escape for. Python and JavaScript write all but the slash so, PHP the slash, too.
_SHORT = {
    '"': r"\"",
    "\\": r"\\",
    "/": r"\/",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
}


def pattern_of(text: str) -> str:
    """A regular expression that finds a text in JSON, matched in any case; PostgreSQL and Python read it alike."""
    return "".join(map(_pattern_of, text))


def _pattern_of(character: str) -> str:
    spellings = [re.escape(each) for each in _spellings(character)]
    return spellings[0] if len(spellings) == 1 else f"(?:{'|'.join(spellings)})"


def _spellings(character: str) -> list[str]:
    """Python's default escapes all but ASCII; Go, .NET and Rails escape signs of HTML; nobody letters of ASCII."""
    if character.isascii() and (character.isalnum() or character == " "):
        return [character]
    # Whoever matches in any case cannot know of the case of what is escaped.
    forms = dict.fromkeys((character, *(form for form in (character.lower(), character.upper()) if len(form) == 1)))
    short = [_SHORT[character]] if character in _SHORT else []
    return [*forms, *short, *map(_escaped, forms)]


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(rf"\u{units[start : start + 4]}" for start in range(0, len(units), 4))

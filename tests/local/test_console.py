"""Words of strangers in a terminal: seen, and never obeyed."""

import pytest

from service.local.console import printable, show_table

HOSTILE = {
    "colours": "\x1b[31mred\x1b[0m",
    "a title": "\x1b]0;owned\x07",
    "the eight-bit form": "\x9b31mred",
    "a new line": "one\ntwo\r\nthree",
    "backwards": "abc\u202edef\u2066ghi",
    "backspaces": "rm\x08\x08ok",
    "a bell and a NUL": "a\x07b\0c",
    "invisible": "a\u200bb\ufeffc",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert printable(text).isprintable()
    assert [letter for letter in printable(text) if letter != " "] == [
        letter for letter in text if letter.isprintable()
    ]


def test_plain_words_stay_as_they_are() -> None:
    assert printable("Ein Bär, 熊 and 🐻: 5 €") == "Ein Bär, 熊 and 🐻: 5 €"


def test_of_nothing_there_is_no_heading(capsys: pytest.CaptureFixture[str]) -> None:
    show_table([("NAME", "REASON")])
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "roundtrip: there are none\n")


def test_a_table_is_as_many_lines_as_it_has_rows(capsys: pytest.CaptureFixture[str]) -> None:
    show_table([("NAME", "REASON"), *((name, text) for name, text in HOSTILE.items())])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(HOSTILE) + 1
    assert all(line.isprintable() for line in lines)

"""Prompts, outputs, labels, names and errors that want to do harm are shown as text, and every mark in them is seen."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.context import Context
from service.marks import visible
from tests.dashboard.browsing import Person
from tests.dashboard.filling import fill
from tests.making import make_tenant

UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


@pytest.mark.timeout(240)
async def test_it_is_text(person: Person, context: Context) -> None:
    filled = await fill(context, await make_tenant(context.db, "ours"))
    shown = ""
    for path in filled.pages:
        await person.go(path)
        await person.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        text = await person.text()
        source = await person.page.content()
        assert UNSEEN.search(text) is None, path
        assert UNSEEN.search(source) is None, path
        assert await person.page.evaluate("window.ran") == [], path
        assert await person.page.locator("main script, main img[src=x], main b, main textarea").count() == 0, path
        shown += text
    assert "<script>window.ran.push('it')</script>" in shown
    for mark in (
        "[U+202E]txt.exe[U+202C]",
        "[U+2066]isolated[U+2069]",
        "[ESC][31mred",
        "[BEL]",
        "[U+009B]2J",
        "{{7*7}}",
    ):
        assert mark in shown


@given(st.text(st.characters()))
def test_nothing_unseen_is_left(text: str) -> None:
    told = visible(text)
    assert UNSEEN.search(told) is None
    told.encode()


@given(st.text(st.characters(categories=["L", "Nd", "Zs"])))
def test_letters_are_left_alone(text: str) -> None:
    fillers = "\u115f\u1160\u3164\uffa0"
    assert visible(text) == text or any(each in text for each in fillers)

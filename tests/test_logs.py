"""Logs are read in terminals, which obey what strangers write into them if nobody keeps them from it."""

import io

import structlog

from service.logs import PROCESSORS

HARM = "\x1b[2J\x07\u202e"


def test_a_log_makes_a_terminal_do_nothing() -> None:
    out = io.StringIO()
    log = structlog.wrap_logger(structlog.PrintLogger(out), processors=PROCESSORS)
    try:
        raise ValueError(HARM)
    except ValueError:
        log.exception("it failed", reason=HARM, words=f"{HARM} in words", several=[HARM])
    said = out.getvalue()
    assert not any(each in said for each in ("\x1b[2J", "\x07", "\u202e"))
    assert "reason=[ESC][2J[BEL][U+202E]" in said
    assert "ValueError: [ESC][2J[BEL][U+202E]" in said

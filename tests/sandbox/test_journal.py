"""The journal keeps what the provider did, whoever asks and however long ago it was."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.sandbox.journal import digest
from tests.sandbox.receiver import Hook
from tests.sandbox.running import running_sandbox


def lines_of(path: Path, request_id: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["request_id"] == request_id]


def test_a_request_is_told_from_its_submit_to_its_webhook(tmp_path: Path, hook: Hook) -> None:
    journal = tmp_path / "journal"
    with running_sandbox(journal=journal) as sandbox:
        request = sandbox.accept("sandbox/echo", hook.url, word=1, sandbox={"key": "k", "webhook": "forged"})
        result = sandbox.result(request).json()
        while len(sandbox.told(request)["deliveries"]) < 2:
            time.sleep(0.01)
    accepted, finished, *tries = lines_of(journal, request["request_id"])
    assert (accepted["what"], accepted["model"], accepted["key"]) == ("accepted", "sandbox/echo", "k")
    assert accepted["url"] == hook.url
    assert accepted["knobs"] == {"key": "k", "webhook": "forged"}
    assert (finished["what"], finished["status"], finished["digest"]) == ("finished", 200, digest(result))
    assert [(each["what"], each["kind"], each["url"], each["status"]) for each in tries] == [
        ("webhook", "forged", hook.url, 200),
        ("webhook", "good", hook.url, 200),
    ]


def test_a_submit_whose_answer_is_lost_is_in_it_and_a_refused_one_is_not(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with running_sandbox(journal=journal) as sandbox:
        assert sandbox.submit(sandbox={"submit": "503", "key": "refused"}).status_code == 503
        with pytest.raises(httpx.HTTPError):
            sandbox.submit(sandbox={"submit": "cut", "key": "lost"})
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines() if '"accepted"' in line]
    assert keys == ["lost"]


def test_a_digest_does_not_depend_on_how_the_body_was_written() -> None:
    assert digest({"b": 1, "a": [1.5, None]}) == digest(json.loads('{ "a":[1.5,null], "b":1 }'))

"""What a message to a worker may say: everybody who can write to the broker can write one."""

from typing import Any
from uuid import uuid4

import msgspec
import pytest

from service.gpu.queues import Ticket, request_id_of
from service.providers.address import Sealer

JOB, OTHER = uuid4(), uuid4()
SEALER = Sealer(b"secret")
MODEL = "a/b.c"


def message(**changes: Any) -> dict[str, Any]:
    return {
        "job": str(JOB),
        "attempt": 1,
        "model": MODEL,
        "request_id": request_id_of(JOB, 1),
        "runs_path": SEALER.runs_path(JOB, 1),
        "webhook_path": SEALER.path(JOB, 1, MODEL, "gpu"),
        **changes,
    }


def test_a_message_of_one_attempt_is_read() -> None:
    assert msgspec.convert(message(), Ticket).webhook_path.endswith("/a/b.c")


@pytest.mark.parametrize(
    "changes",
    [
        # Whatever follows the address of the service would name another host, or another place of it.
        {"runs_path": f"@evil.example{SEALER.runs_path(JOB, 1)}"},
        {"runs_path": f".evil.example{SEALER.runs_path(JOB, 1)}"},
        {"webhook_path": f"@evil.example{SEALER.path(JOB, 1, MODEL, 'gpu')}"},
        {"webhook_path": "/v1/files"},
        {"webhook_path": SEALER.path(JOB, 1, MODEL, "fal")},
        # The result of one job would be told as another's.
        {"webhook_path": SEALER.path(OTHER, 1, MODEL, "gpu")},
        {"webhook_path": SEALER.path(JOB, 2, MODEL, "gpu")},
        {"runs_path": SEALER.runs_path(OTHER, 1)},
        {"request_id": request_id_of(OTHER, 1)},
        {"model": "a/bxc"},
        # A name that would be a place on the worker's disk.
        {"job": "../../x", "request_id": "gpu-../../x-1"},
    ],
)
def test_a_message_whose_parts_are_not_of_one_attempt_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="not of one attempt"):
        msgspec.convert(message(**changes), Ticket)

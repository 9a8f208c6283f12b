"""The samples of docs/callbacks.md, run as they stand there against callbacks that really came."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from service.callbacks.delivering import Deliverer
from service.callbacks.lifecycle import CallbackFormat
from service.db import Database
from service.tenants import callback_secrets, set_wishes
from tests.callbacks import told
from tests.callbacks.receiver import Receiver
from tests.provider import Call

PAGE = Path(__file__).parents[2] / "docs" / "callbacks.md"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="the JavaScript samples need Node")


def sample(language: str, kind: str) -> str:
    [found] = re.findall(rf"^```{language} {kind}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def in_python(kind: str, name: str) -> Any:
    names: dict[str, Any] = {}
    exec(sample("python", kind), names)
    return names[name]


def in_node(folder: Path, kind: str, known: object, call: Call, body: bytes) -> bool:
    (folder / "sample.mjs").write_text(sample("javascript", kind))
    (folder / "body").write_bytes(body)
    (folder / "given.json").write_text(json.dumps({"known": known, "headers": dict(call.headers)}))
    (folder / "run.mjs").write_text(
        'import { readFileSync } from "node:fs";\n'
        'import { isOurs } from "./sample.mjs";\n'
        'const { known, headers } = JSON.parse(readFileSync("given.json"));\n'
        'console.log(isOurs(known, headers, readFileSync("body")));\n'
    )
    assert NODE is not None
    done = subprocess.run([NODE, "run.mjs"], cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    return {"true": True, "false": False}[done.stdout.strip()]


@pytest.fixture
async def fal_call(db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver) -> Call:
    await told.ended(db, tenant, receiver.address)
    await told.drain(deliverer)
    return receiver.calls[0]


@pytest.fixture
async def standard_call(db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver) -> Call:
    await set_wishes(db, "ours", callback_format=CallbackFormat.STANDARD)
    await told.ended(db, tenant, receiver.address)
    await told.drain(deliverer)
    return receiver.calls[0]


@pytest.fixture
async def keys(nobody: httpx.AsyncClient) -> list[dict[str, str]]:
    return list((await nobody.get("/.well-known/jwks.json")).json()["keys"])


@pytest.fixture
async def secret(db: Database, tenant: UUID) -> str:
    secrets = await callback_secrets(db, "ours")
    assert secrets is not None
    return secrets.secret


async def test_fals_form_in_python(fal_call: Call, tenant: UUID, keys: list[dict[str, str]]) -> None:
    is_ours = in_python("fal", "is_ours")
    assert is_ours(keys, str(tenant), dict(fal_call.headers), fal_call.body)
    assert not is_ours(keys, str(tenant), dict(fal_call.headers), fal_call.body + b" ")
    assert not is_ours(keys, str(uuid4()), dict(fal_call.headers), fal_call.body)


@needs_node
async def test_fals_form_in_javascript(
    fal_call: Call, tenant: UUID, keys: list[dict[str, str]], tmp_path: Path
) -> None:
    def known(of: list[dict[str, str]], user: UUID = tenant) -> dict[str, object]:
        return {"keys": of, "userId": str(user)}

    assert in_node(tmp_path, "fal", known(keys), fal_call, fal_call.body)
    assert in_node(tmp_path, "fal", known(keys[:1]), fal_call, fal_call.body)
    assert in_node(tmp_path, "fal", known(keys[1:]), fal_call, fal_call.body)
    assert not in_node(tmp_path, "fal", known(keys), fal_call, fal_call.body + b" ")
    assert not in_node(tmp_path, "fal", known(keys, uuid4()), fal_call, fal_call.body)


async def test_the_standards_form_in_python(standard_call: Call, secret: str) -> None:
    event = in_python("standard", "event_of")(secret, dict(standard_call.headers), standard_call.body)
    assert event["data"]["output"] == {"output": "A cat."}


@needs_node
async def test_the_standards_form_in_javascript(standard_call: Call, secret: str, tmp_path: Path) -> None:
    assert in_node(tmp_path, "standard", secret, standard_call, standard_call.body)
    assert not in_node(tmp_path, "standard", secret, standard_call, standard_call.body + b" ")

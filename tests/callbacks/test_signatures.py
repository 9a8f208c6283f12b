"""Whoever verifies as fal's or as the standard's documentation says finds our callbacks to be ours."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from service.callbacks import keys
from service.callbacks.delivering import Deliverer
from service.callbacks.keys import SigningKeys
from service.callbacks.lifecycle import CallbackFormat
from service.context import Context
from service.db import Database
from service.tenants import RotatedBefore, callback_secrets, set_wishes
from tests.callbacks import told
from tests.callbacks.receiver import Receiver, receiving
from tests.callbacks.verifying import is_fals, is_v1a
from tests.making import make_tenant
from tests.provider import Call, Reply


@pytest.fixture(autouse=True)
async def first_key(db: Database) -> AsyncIterator[None]:
    """Keys that a test makes are not for the others."""
    await keys.read_keys(db)
    before = {row["name"] for row in await db.fetch("SELECT name FROM server_secrets")}
    kept = await db.fetch("SELECT * FROM server_secrets WHERE starts_with(name, $1)", keys.NAME)
    yield
    await db.execute("DELETE FROM server_secrets WHERE starts_with(name, $1)", keys.NAME)
    for row in kept:
        await db.execute("INSERT INTO server_secrets VALUES ($1, $2, $3)", *row.values())
    assert before <= {row["name"] for row in await db.fetch("SELECT name FROM server_secrets")}


async def delivered(db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver) -> Call:
    await told.ended(db, tenant, receiver.address)
    await told.drain(deliverer)
    return receiver.calls[-1]


async def fetched(nobody: httpx.AsyncClient, path: str = "/.well-known/jwks.json") -> dict[str, list[dict[str, str]]]:
    response = await nobody.get(path)
    assert response.status_code == 200
    assert "max-age" in response.headers["cache-control"]
    return dict(response.json())


async def want_standard(db: Database) -> None:
    assert await set_wishes(db, "ours", callback_format=CallbackFormat.STANDARD)


async def test_fals_own_way_of_verifying_holds(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver, nobody: httpx.AsyncClient
) -> None:
    call = await delivered(db, tenant, deliverer, receiver)
    published = await fetched(nobody)
    assert is_fals(published, call.headers, call.body)
    assert call.headers["x-fal-webhook-user-id"] == str(tenant)
    assert not is_fals(published, call.headers, call.body + b" ")
    for name in ("request-id", "user-id", "timestamp"):
        header = f"x-fal-webhook-{name}"
        changed = {**call.headers, header: _other(call.headers[header])}
        assert not is_fals(published, changed, call.body)


def _other(word: str) -> str:
    return word[:-1] + ("1" if word[-1] != "1" else "2")


@pytest.mark.parametrize("padded", [False, True])
async def test_each_spelling_of_a_key_is_enough(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver, nobody: httpx.AsyncClient, padded: bool
) -> None:
    call = await delivered(db, tenant, deliverer, receiver)
    listed = (await fetched(nobody))["keys"]
    one = [key for key in listed if key["x"].endswith("=") is padded]
    for key in one:
        key["x"] += "=" * (-len(key["x"]) % 4)  # As a reader has to do who knows the RFC.
    assert len(one) == 1
    assert is_fals({"keys": one}, call.headers, call.body)


async def test_every_entry_of_the_key_set_has_a_name_of_its_own(nobody: httpx.AsyncClient) -> None:
    listed = (await fetched(nobody))["keys"]
    assert len({key["kid"] for key in listed}) == len(listed) == 2
    assert {(key["kty"], key["crv"]) for key in listed} == {("OKP", "Ed25519")}
    strict = (await fetched(nobody, "/.well-known/jwks-rfc.json"))["keys"]
    assert [len(key["x"]) for key in strict] == [43]
    assert strict == listed[1:]


async def test_the_published_library_of_standard_webhooks_verifies(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    await want_standard(db)
    call = await delivered(db, tenant, deliverer, receiver)
    secrets = await callback_secrets(db, "ours")
    assert secrets is not None
    event = Webhook(secrets.secret).verify(call.body, dict(call.headers))
    assert (event["type"], event["data"]["output"]) == ("job.completed", {"output": "A cat."})
    assert call.headers["webhook-id"] == event["data"]["request_id"]
    assert "." not in call.headers["webhook-id"]
    assert not any(name.startswith("x-fal-") for name in call.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secrets.secret).verify(call.body + b" ", dict(call.headers))
    assert is_v1a(secrets.public_key, call.headers, call.body)
    assert not is_v1a(secrets.public_key, call.headers, call.body + b" ")


async def test_anothers_callbacks_are_not_taken_for_mine(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver, nobody: httpx.AsyncClient
) -> None:
    """Another tenant can name my address; what it sends there is signed, but not as mine."""
    theirs = await make_tenant(db, "theirs")
    mine = await callback_secrets(db, "ours")
    assert mine is not None
    call = await delivered(db, theirs, deliverer, receiver)
    assert is_fals(await fetched(nobody), call.headers, call.body)
    assert call.headers["x-fal-webhook-user-id"] != mine.user_id == str(tenant)
    await set_wishes(db, "theirs", callback_format=CallbackFormat.STANDARD)
    call = await delivered(db, theirs, deliverer, receiver)
    assert not is_v1a(mine.public_key, call.headers, call.body)
    with pytest.raises(WebhookVerificationError):
        Webhook(mine.secret).verify(call.body, dict(call.headers))


async def test_a_second_rotation_within_a_day_is_refused_unless_it_is_meant(db: Database, tenant: UUID) -> None:
    await callback_secrets(db, "ours", rotate=True)
    with pytest.raises(RotatedBefore):
        await callback_secrets(db, "ours", rotate=True)
    kept = await callback_secrets(db, "ours")
    again = await callback_secrets(db, "ours", rotate=True, again=True)
    assert kept is not None
    assert again is not None
    assert again.before == kept.secret
    await db.execute("UPDATE tenants SET callback_secret_rotated_at = now() - interval '25 hours'")
    assert await callback_secrets(db, "ours", rotate=True)


async def test_keys_that_are_made_at_once_are_all_made(db: Database) -> None:
    before = len(await keys.read_keys(db))
    await asyncio.gather(*(keys.rotate(db, at_once=False) for _ in range(5)))
    assert len(await keys.read_keys(db)) == before + 5
    await asyncio.gather(*(keys.rotate(db, at_once=True) for _ in range(3)))
    assert 1 <= len(await keys.read_keys(db)) <= 3


async def test_no_two_tenants_share_a_secret_and_none_lies_in_a_table(db: Database, tenant: UUID) -> None:
    ours = await callback_secrets(db, "ours")
    await db.execute("INSERT INTO tenants (id, name) VALUES (gen_random_uuid(), 'theirs')")
    theirs = await callback_secrets(db, "theirs")
    assert ours is not None
    assert theirs is not None
    assert ours.secret != theirs.secret
    assert ours.public_key != theirs.public_key
    raw = base64.b64decode(ours.secret.removeprefix("whsec_"))
    assert len(raw) == 32
    for table in ("tenants", "server_secrets"):
        rows = await db.fetch(f"SELECT to_jsonb({table}) AS row FROM {table}")
        assert not any(ours.secret in row["row"] or raw.hex() in row["row"] for row in rows)


async def test_after_a_rotation_both_secrets_hold_for_a_day(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    await want_standard(db)
    old = await callback_secrets(db, "ours")
    new = await callback_secrets(db, "ours", rotate=True)
    assert old is not None
    assert new is not None
    assert (new.before, old.before, new.public_key_before) == (old.secret, None, old.public_key)
    assert new.secret != old.secret
    call = await delivered(db, tenant, deliverer, receiver)
    for secrets in (old, new):
        Webhook(secrets.secret).verify(call.body, dict(call.headers))
        assert is_v1a(secrets.public_key, call.headers, call.body)
    await db.execute("UPDATE tenants SET callback_secret_rotated_at = now() - interval '25 hours'")
    call = await delivered(db, tenant, deliverer, receiver)
    Webhook(new.secret).verify(call.body, dict(call.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(old.secret).verify(call.body, dict(call.headers))


async def test_a_new_key_is_published_a_day_before_it_signs(
    db: Database, tenant: UUID, calling: Context, receiver: Receiver
) -> None:
    async def age(hours: float) -> None:
        await db.execute(
            "UPDATE server_secrets SET created_at = created_at - make_interval(hours => $2::int)"
            " WHERE starts_with(name, $1)",
            keys.NAME,
            hours,
        )

    async def now() -> tuple[dict[str, list[dict[str, str]]], Call]:
        deliverer = Deliverer(replace(calling, callback_keys=SigningKeys()))
        call = await delivered(db, tenant, deliverer, receiver)
        return keys.key_set(await SigningKeys().published(db), strict=False), call

    first, call = await now()
    assert is_fals(first, call.headers, call.body)
    await keys.rotate(db, at_once=False)
    both, call = await now()
    assert len(both["keys"]) == 4
    assert is_fals(first, call.headers, call.body)
    await age(26)
    still, call = await now()
    assert still == both
    assert not is_fals(first, call.headers, call.body)
    assert is_fals(both, call.headers, call.body)
    await age(26)
    last, call = await now()
    assert last["keys"] == both["keys"][2:]
    assert is_fals(last, call.headers, call.body)


async def test_a_stolen_key_is_neither_used_nor_published_again(
    db: Database, tenant: UUID, calling: Context, receiver: Receiver
) -> None:
    before = keys.key_set(await SigningKeys().published(db), strict=False)
    await keys.rotate(db, at_once=True)
    after = keys.key_set(await SigningKeys().published(db), strict=False)
    assert len(after["keys"]) == 2
    assert not {key["x"] for key in before["keys"]} & {key["x"] for key in after["keys"]}
    call = await delivered(db, tenant, Deliverer(replace(calling, callback_keys=SigningKeys())), receiver)
    assert is_fals(after, call.headers, call.body)


async def test_a_redelivery_keeps_its_form_when_the_tenant_wants_another(
    db: Database, tenant: UUID, deliverer: Deliverer
) -> None:
    async with receiving(Reply(500), Reply()) as receiver:
        job_id = await told.ended(db, tenant, receiver.address)
        await told.drain(deliverer)
        await want_standard(db)
        await told.try_now(deliverer, db, job_id)
        newer = await told.ended(db, tenant, receiver.address)
        await told.drain(deliverer)
    first, again, other = receiver.calls
    assert first.body == again.body
    assert "x-fal-webhook-signature" in again.headers
    assert json.loads(other.body)["data"]["request_id"] == str(newer)

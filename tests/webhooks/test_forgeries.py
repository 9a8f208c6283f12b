"""Only our provider's answer to this attempt counts: whatever else comes changes nothing."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from service.app import create_app
from service.db import Database
from service.jobs.facts import Claim
from service.settings import Settings
from tests import making
from tests.making import CAT
from tests.provider import Provider
from tests.serving import serving
from tests.stand_in.signing import Key
from tests.webhooks.posting import Poster, envelope, now

WORDS = "The webhook's signature does not hold."
REFUSAL = {"detail": WORDS, "error_type": "auth_error", "message": WORDS}
SIGNATURE = "x-fal-webhook-signature"
TIMESTAMP = "x-fal-webhook-timestamp"
REQUEST = "x-fal-webhook-request-id"
USER = "x-fal-webhook-user-id"


@dataclass
class Target:
    """A job that waits for its webhook, and the one webhook that is good for it."""

    db: Database
    claim: Claim
    url: str
    body: bytes
    headers: dict[str, str]


@pytest.fixture
async def target(db: Database, tenant: UUID, poster: Poster) -> Target:
    claim = await making.submitted(db, tenant, "r-1")
    body = envelope("r-1", CAT)
    url = poster.sealer.path(claim.job_id, 1, claim.model)
    return Target(db, claim, url, body, poster.signed("r-1", body))


async def untouched(target: Target) -> bool:
    status = await making.status(target.db, target.claim.job_id)
    return status == "submitted" and await making.reports(target.db, target.claim.job_id) == []


async def is_refused(poster: Poster, target: Target, url: str, body: bytes, headers: Any) -> bool:
    response = await poster.send(url, body, headers)
    assert (response.status_code, response.json()) == (401, REFUSAL)
    return await untouched(target)


async def test_the_one_good_webhook_works(poster: Poster, target: Target) -> None:
    response = await poster.send(target.url, target.body, target.headers)
    assert (response.status_code, response.json()) == (200, {"verdict": "applied"})
    assert await making.status(target.db, target.claim.job_id) == "completed"


@hypothesis_settings(max_examples=60)
@given(data=st.data())
async def test_a_flipped_bit_of_the_body_is_refused(poster: Poster, target: Target, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, 8 * len(target.body) - 1))
    body = bytearray(target.body)
    body[position // 8] ^= 1 << position % 8
    assert await is_refused(poster, target, target.url, bytes(body), target.headers)


@hypothesis_settings(max_examples=60)
@given(data=st.data())
async def test_a_changed_character_of_a_header_is_refused(poster: Poster, target: Target, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(target.headers)))
    value = target.headers[name]
    position = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.sampled_from([c for c in "0123456789abcdefABCDEFxyz-" if c != value[position]]))
    headers = target.headers | {name: value[:position] + other + value[position + 1 :]}
    assert await is_refused(poster, target, target.url, target.body, headers)


@hypothesis_settings(max_examples=60)
@given(place=st.integers(3, 7), word=st.from_regex(r"[a-z0-9_-]{1,40}", fullmatch=True))
async def test_a_changed_address_is_refused(poster: Poster, target: Target, place: int, word: str) -> None:
    parts = target.url.split("/")
    parts[place] = word if parts[place] != word else f"{word}x"
    assert await is_refused(poster, target, "/".join(parts), target.body, target.headers)


async def begun(poster: Poster, url: str, headers: Any) -> bytes:
    """What is answered to a webhook of which only the head has been sent, its large body still to come."""
    where = urlsplit(str(poster.http.base_url))
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    pairs = headers.items() if isinstance(headers, dict) else headers
    lines = [f"POST {url} HTTP/1.1", "host: x", "content-length: 1000000", *(f"{name}: {word}" for name, word in pairs)]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        async with asyncio.timeout(30):
            return await reader.readuntil(b"\r\n")
    finally:
        writer.close()


@pytest.mark.parametrize("what", ["headers", "seal", "account"])
async def test_a_forgery_is_refused_before_its_body_is_read_and_costs_no_keys(
    poster: Poster, target: Target, provider: Provider, pinned: str, what: str
) -> None:
    provider.calls.clear()
    url, headers = target.url, dict(target.headers)
    if what == "headers":
        headers[SIGNATURE] = headers[SIGNATURE][:-1]
    elif what == "seal":
        url = url[:-1] + ("0" if url[-1] != "0" else "1")
    else:
        headers = poster.key.headers("r-1", "account-2", target.body)
    async with httpx.AsyncClient(base_url=pinned, trust_env=False) as http:
        only_ours = Poster(http, provider, poster.sealer)
        assert b" 401 " in await begun(only_ours, url, headers)
    assert provider.asked("/jwks.json") == []
    assert await untouched(target)


async def test_a_well_formed_head_is_waited_for_its_body(poster: Poster, target: Target) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await begun(poster, target.url, target.headers)
    assert await untouched(target)


async def test_many_forged_seals_leave_the_looks_for_keys_to_others(
    poster: Poster, target: Target, provider: Provider
) -> None:
    """Signed well, as anybody with an account of fal's can have it, for an address that we never gave."""
    provider.calls.clear()
    parts = target.url.split("/")
    for number in range(60):
        parts[-1] = f"{number:040x}"
        key = Key()
        headers = key.headers("r-1", poster.user_id, target.body)
        assert await is_refused(poster, target, "/".join(parts), target.body, headers)
    assert provider.asked("/jwks.json") == []


FORGED: dict[str, Callable[[dict[str, str]], Any]] = {
    "two headers swapped": lambda h: h | {REQUEST: h[USER], USER: h[REQUEST]},
    "upper-case hex": lambda h: h | {SIGNATURE: h[SIGNATURE].upper()},
    "short hex": lambda h: h | {SIGNATURE: h[SIGNATURE][:-2]},
    "no hex": lambda h: h | {SIGNATURE: "z" * 128},
    "zeros": lambda h: h | {SIGNATURE: "0" * 128},
    "nothing signed": lambda h: {},
    "no signature": lambda h: {name: value for name, value in h.items() if name != SIGNATURE},
    "the signature twice": lambda h: [*h.items(), (SIGNATURE, h[SIGNATURE])],
    "two signatures": lambda h: [*h.items(), (SIGNATURE, "0" * 128)],
    "two timestamps": lambda h: [(TIMESTAMP, now(-301)), *h.items()],
    "a float timestamp": lambda h: h | {TIMESTAMP: f"{h[TIMESTAMP]}.0"},
    "a negative timestamp": lambda h: h | {TIMESTAMP: "-1"},
    "twenty digits": lambda h: h | {TIMESTAMP: "9" * 20},
}


@pytest.mark.parametrize("how", FORGED)
async def test_headers_of_another_form_are_refused(poster: Poster, target: Target, how: str) -> None:
    assert await is_refused(poster, target, target.url, target.body, FORGED[how](target.headers))


@pytest.mark.parametrize("shift", [-302, 302])
async def test_a_webhook_from_another_time_is_refused(poster: Poster, target: Target, shift: int) -> None:
    headers = poster.signed("r-1", target.body, shift=shift)
    assert await is_refused(poster, target, target.url, target.body, headers)


async def test_a_webhook_under_another_key_is_refused(poster: Poster, target: Target) -> None:
    headers = Key().headers("r-1", poster.user_id, target.body)
    assert await is_refused(poster, target, target.url, target.body, headers)


async def test_an_empty_body_is_refused(poster: Poster, target: Target) -> None:
    assert await is_refused(poster, target, target.url, b"", target.headers)


async def test_a_replay_to_another_attempts_address_is_foreign(poster: Poster, target: Target, tenant: UUID) -> None:
    other = await making.submitted(target.db, tenant, "r-2")
    url = poster.sealer.path(other.job_id, 1, other.model)
    response = await poster.send(url, target.body, target.headers)
    assert (response.status_code, response.json()) == (200, {"verdict": "foreign"})
    assert await making.status(target.db, other.job_id) == "submitted"
    assert await untouched(target)


async def test_an_id_that_the_header_and_the_body_tell_apart_is_foreign(poster: Poster, target: Target) -> None:
    body = envelope("r-2", CAT)
    response = await poster.send(target.url, body, poster.signed("r-1", body))
    assert response.json() == {"verdict": "foreign"}
    assert await making.status(target.db, target.claim.job_id) == "submitted"


async def test_a_signed_webhook_for_nobodys_job_is_noted_and_answered(poster: Poster, target: Target) -> None:
    job_id = uuid7()
    response = await poster.send(poster.sealer.path(job_id, 1, making.MODEL), target.body, target.headers)
    assert (response.status_code, response.json()) == (200, {"verdict": "unknown"})
    [noted] = await making.reports(target.db, job_id)
    assert (noted["body"], noted["removed_sha256"]) == (b"", hashlib.sha256(target.body).hexdigest())


@pytest.mark.parametrize("attempt", [0, 2, 32_767])
async def test_a_sealed_address_of_an_attempt_that_never_was_ends_nothing(
    poster: Poster, target: Target, attempt: int
) -> None:
    url = poster.sealer.path(target.claim.job_id, attempt, target.claim.model)
    response = await poster.send(url, target.body, target.headers)
    assert response.json() == {"verdict": "unknown"}
    assert await making.status(target.db, target.claim.job_id) == "submitted"


@pytest.mark.parametrize("attempt", ["0x1", "1_0", "1" * 5_000, "99999", "-1", "1.0", "one"])
async def test_an_attempt_that_is_no_number_is_refused(poster: Poster, target: Target, attempt: str) -> None:
    parts = target.url.split("/")
    parts[4] = attempt
    assert await is_refused(poster, target, "/".join(parts), target.body, target.headers)


async def test_a_good_webhook_among_many_forged_ones_works(poster: Poster, target: Target) -> None:
    for _ in range(40):
        headers = target.headers | {SIGNATURE: secrets.token_hex(64)}
        assert await is_refused(poster, target, target.url, target.body, headers)
    assert (await poster.send(target.url, target.body, target.headers)).json() == {"verdict": "applied"}


@pytest.fixture(scope="module")
async def pinned(settings: Settings) -> AsyncIterator[str]:
    """The address of a service that takes webhooks of one account only."""
    async with serving(create_app(settings.model_copy(update={"fal_user_id": "account-1"}))) as url:
        yield url


async def test_another_customers_validly_signed_webhook_is_refused(poster: Poster, target: Target, pinned: str) -> None:
    headers = poster.key.headers("r-1", "account-2", target.body)
    assert await is_refused(poster, target, pinned + target.url, target.body, headers)
    response = await poster.send(pinned + target.url, target.body, target.headers)
    assert response.json() == {"verdict": "applied"}

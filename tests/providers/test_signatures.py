"""fal's published way to sign a webhook, done by PyNaCl here and checked by the service there."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import VerifyKey

from service.errors import SignatureRejected
from service.providers import signatures
from service.providers.signatures import KeySet, KeysUnavailable, Signed, read_headers, read_key_set
from tests.making import until
from tests.provider import Call, Provider, Reply, page, reply, says
from tests.stand_in.signing import STRANGERS, Key, public_jwk

BODY = b'{"request_id": "r-1", "status": "OK"}'


@pytest.fixture
def keys(http: httpx.AsyncClient, provider: Provider) -> KeySet:
    return KeySet(http, f"{provider.url}/.well-known/jwks.json")


def as_pairs(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def signed(key: Key, body: bytes = BODY, request_id: str = "r-1", user_id: str = "u-1", shift: float = 0) -> Signed:
    return read_headers(as_pairs(key.headers(request_id, user_id, body, shift=shift)))


async def refused(keys: KeySet, news: Signed, body: bytes = BODY) -> bool:
    try:
        await keys.verify(news, body)
    except SignatureRejected:
        return True
    return False


def looks(provider: Provider) -> int:
    return len(provider.asked("/jwks.json"))


# The signature


@given(body=st.binary(), request_id=st.from_regex(r"[\x21-\x7e]{1,200}", fullmatch=True))
def test_the_message_is_what_fal_publishes(body: bytes, request_id: str) -> None:
    key = Key()
    news = signed(key, body, request_id)
    VerifyKey(bytes(key.secret.verify_key)).verify(news.message(body), bytes.fromhex(news.signature))


async def test_a_good_webhook_is_let_in(keys: KeySet, provider: Provider) -> None:
    await keys.verify(signed(provider.key), BODY)


@pytest.mark.parametrize("padded", [False, True])
async def test_a_published_key_may_be_padded_or_not(keys: KeySet, provider: Provider, padded: bool) -> None:
    provider.keys = says(reply({"keys": [public_jwk(bytes(provider.key.secret.verify_key), "k", padded=padded)]}))
    await keys.verify(signed(provider.key), BODY)


async def test_any_of_the_published_keys_may_have_signed(keys: KeySet, provider: Provider) -> None:
    provider.keys = says(reply({"keys": [*STRANGERS, Key().jwk("a"), provider.key.jwk("b"), Key().jwk("c")]}))
    await keys.verify(signed(provider.key), BODY)


async def test_a_key_that_is_not_published_signs_nothing(keys: KeySet) -> None:
    assert await refused(keys, signed(Key()))


@pytest.mark.parametrize("signature", ["0" * 128, "01" + "0" * 126])
async def test_a_point_of_small_order_signs_nothing(keys: KeySet, provider: Provider, signature: str) -> None:
    provider.keys = says(reply({"keys": [public_jwk(bytes(32), "zeros"), public_jwk(b"\1" + bytes(31), "one")]}))
    headers = provider.key.headers("r-1", "u-1", BODY) | {"x-fal-webhook-signature": signature}
    assert await refused(keys, read_headers(as_pairs(headers)))


@given(position=st.integers(0, len(BODY) * 8 - 1))
async def test_a_flipped_bit_of_the_body_is_found(keys: KeySet, provider: Provider, position: int) -> None:
    body = bytearray(BODY)
    body[position // 8] ^= 1 << position % 8
    assert await refused(keys, signed(provider.key), bytes(body))


# The headers


@pytest.mark.parametrize("shift", [-299, 299])
def test_a_clock_may_be_five_minutes_off(shift: int) -> None:
    signed(Key(), shift=shift)


@pytest.mark.parametrize("shift", [-302, 302, -86_400, 86_400 * 365, 1e10])
def test_a_clock_may_not_be_further_off(shift: float) -> None:
    with pytest.raises(SignatureRejected):
        signed(Key(), shift=shift)


GOOD = Key().headers("r-1", "u-1", BODY)
SIGNATURE = GOOD["x-fal-webhook-signature"]
FORMS = {
    "x-fal-webhook-signature": [
        *("", SIGNATURE[:-2], SIGNATURE[:-1], f"{SIGNATURE}00", f"0x{SIGNATURE}", f"{SIGNATURE},{SIGNATURE}"),
        *("AB" * 64, "g" * 128, "\u0661" * 128),
    ],
    "x-fal-webhook-timestamp": ["", "-1", "+1", "1.5", "1e9", " 1", "9" * 12, "9" * 5_000, "\u0661", "NaN"],
    "x-fal-webhook-request-id": ["", " ", "a b", "a\tb", "x" * 201, "\u00e9"],
    "x-fal-webhook-user-id": ["", " ", "a\nb", "x" * 201, "\u00e9"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in FORMS.items() for value in values])
def test_a_header_has_one_form(name: str, value: str) -> None:
    with pytest.raises(SignatureRejected):
        read_headers(as_pairs({**GOOD, name: value}))


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("how", ["missing", "twice", "twice with another value"])
def test_a_header_comes_once(name: str, how: str) -> None:
    pairs = [pair for pair in as_pairs(GOOD) if pair[0] != name.encode() or how != "missing"]
    if how != "missing":
        pairs.append((name.encode(), GOOD[name].encode() if how == "twice" else b"1"))
    with pytest.raises(SignatureRejected):
        read_headers(pairs)


@given(st.lists(st.tuples(st.sampled_from([name.encode() for name in GOOD]), st.binary(max_size=140))))
def test_no_headers_raise_anything_else(pairs: list[tuple[bytes, bytes]]) -> None:
    try:
        read_headers(pairs)
    except SignatureRejected:
        return


# The keys


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [null, 1, "a", []]}',
        json.dumps({"keys": [{**Key().jwk("a"), "kty": "EC"}]}).encode(),
        json.dumps({"keys": [{**Key().jwk("a"), "crv": "X25519"}]}).encode(),
        json.dumps({"keys": [public_jwk(bytes(31), "short"), public_jwk(bytes(33), "long")]}).encode(),
        json.dumps({"keys": [{**Key().jwk("a"), "x": 7}, {**Key().jwk("a"), "x": "!" * 43}]}).encode(),
        b"[" * 100_000,
    ],
    ids=lambda document: repr(document[:40]),
)
def test_a_document_without_a_key_is_no_key_set(document: bytes) -> None:
    with pytest.raises(KeysUnavailable):
        read_key_set(document)


@given(st.binary() | st.recursive(st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_no_document_raises_anything_else(document: Any) -> None:
    try:
        read_key_set(document if isinstance(document, bytes) else json.dumps({"keys": document}).encode())
    except KeysUnavailable:
        return


def test_no_more_than_ten_keys_are_tried() -> None:
    listed = [Key().jwk(str(number)) for number in range(50)]
    assert len(read_key_set(json.dumps({"keys": listed}).encode())) == 10


async def test_the_keys_are_fetched_once_for_many_webhooks(keys: KeySet, provider: Provider) -> None:
    news = signed(provider.key)
    await asyncio.gather(*(keys.verify(news, BODY) for _ in range(50)))
    assert looks(provider) == 1


async def test_a_new_key_is_found_with_one_more_look(keys: KeySet, provider: Provider) -> None:
    await keys.verify(signed(provider.key), BODY)
    fresh = Key()
    provider.keys = says(reply({"keys": [fresh.jwk("new")]}))
    await asyncio.gather(*(keys.verify(signed(fresh), BODY) for _ in range(20)))
    assert looks(provider) == 2


async def test_a_withdrawn_key_signs_nothing_any_more(keys: KeySet, provider: Provider) -> None:
    await keys.verify(signed(provider.key), BODY)
    fresh = Key()
    provider.keys = says(reply({"keys": [fresh.jwk("new")]}))
    await keys.verify(signed(fresh), BODY)
    assert await refused(keys, signed(provider.key))


@pytest.mark.parametrize("answer", [page(503), reply({"keys": []}), Reply(200, b"x" * 100_000), reply({}, 404), None])
async def test_without_keys_nothing_can_be_told(keys: KeySet, provider: Provider, answer: Reply | None) -> None:
    provider.keys = says(answer)
    with pytest.raises(KeysUnavailable):
        await keys.verify(signed(provider.key), BODY)


async def test_with_old_keys_a_forgery_is_a_forgery(keys: KeySet, provider: Provider) -> None:
    await keys.verify(signed(provider.key), BODY)
    provider.keys = says(page(503))
    assert await refused(keys, signed(Key()))
    await keys.verify(signed(provider.key), BODY)


async def test_a_flood_of_forgeries_costs_the_key_server_little(keys: KeySet, provider: Provider) -> None:
    await keys.verify(signed(provider.key), BODY)
    forged = signed(Key())
    for _ in range(10):
        assert all(await asyncio.gather(*(refused(keys, forged) for _ in range(50))))
    assert looks(provider) <= signatures.LOOKS + 5
    await keys.verify(signed(provider.key), BODY)


async def test_a_key_server_that_is_away_is_not_flooded_either(keys: KeySet, provider: Provider) -> None:
    provider.keys = says(page(503))
    for _ in range(20):
        with pytest.raises(KeysUnavailable):
            await keys.verify(signed(provider.key), BODY)
    assert looks(provider) < 20


class Clock:
    """`monotonic`, moved by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(signatures, "monotonic", clock)
    return clock


async def looked(provider: Provider, times: int) -> None:
    async def enough() -> bool:
        return looks(provider) >= times

    await until(enough)


async def test_keys_are_renewed_beside_the_work_after_an_hour(keys: KeySet, provider: Provider, clock: Clock) -> None:
    await keys.verify(signed(provider.key), BODY)
    clock.ahead = signatures.FRESH_SECONDS - 10.0
    await keys.verify(signed(provider.key), BODY)
    await asyncio.sleep(0.05)
    assert looks(provider) == 1
    fresh = Key()
    provider.keys = says(reply({"keys": [fresh.jwk("new")]}))
    clock.ahead = signatures.FRESH_SECONDS + 1.0
    await asyncio.gather(*(keys.verify(signed(provider.key), BODY) for _ in range(50)))
    await looked(provider, 2)
    await keys.verify(signed(fresh), BODY)
    assert await refused(keys, signed(provider.key))
    assert looks(provider) == 3  # One for the renewal, one for the key that is good no more.


@pytest.mark.parametrize("hours", [1.5, 23.9])
async def test_a_key_server_that_hangs_keeps_no_good_webhook_waiting(
    keys: KeySet, provider: Provider, clock: Clock, hours: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signatures, "FETCH_SECONDS", 300)
    await keys.verify(signed(provider.key), BODY)
    let_go = asyncio.Event()

    async def hang(call: Call) -> Reply:
        await let_go.wait()
        return await provider.publish(call)

    provider.keys = hang
    clock.ahead = hours * 3_600
    async with asyncio.timeout(30):
        for _ in range(3):
            await asyncio.gather(*(keys.verify(signed(provider.key), BODY) for _ in range(20)))
            await asyncio.sleep(0.02)
    await looked(provider, 2)
    assert looks(provider) == 2
    forged = asyncio.create_task(refused(keys, signed(Key())))
    await asyncio.sleep(0.05)
    assert not forged.done()  # It alone waits for the key server.
    async with asyncio.timeout(30):
        await keys.verify(signed(provider.key), BODY)
    let_go.set()
    assert await forged


async def test_a_renewal_that_failed_is_tried_again_and_not_at_once(
    keys: KeySet, provider: Provider, clock: Clock
) -> None:
    await keys.verify(signed(provider.key), BODY)
    provider.keys = says(page(503))
    clock.ahead = signatures.FRESH_SECONDS + 1.0
    for _ in range(10):
        await keys.verify(signed(provider.key), BODY)
        await asyncio.sleep(0.01)
    assert looks(provider) == 2
    provider.keys = provider.publish
    clock.ahead += signatures.SECONDS_AFTER_FAILURE + 0.1
    await keys.verify(signed(provider.key), BODY)
    await looked(provider, 3)
    await asyncio.sleep(0.05)
    await keys.verify(signed(provider.key), BODY)
    await asyncio.sleep(0.05)
    assert looks(provider) == 3


async def test_keys_of_a_day_and_more_are_fetched_before_they_are_used(
    keys: KeySet, provider: Provider, clock: Clock
) -> None:
    await keys.verify(signed(provider.key), BODY)
    fresh = Key()
    provider.keys = says(reply({"keys": [fresh.jwk("new")]}))
    clock.ahead = signatures.LONGEST_SECONDS + 1.0
    assert await refused(keys, signed(provider.key))
    await keys.verify(signed(fresh), BODY)
    assert looks(provider) == 2


async def test_keys_of_this_hour_are_still_good_while_their_server_is_away(
    keys: KeySet, provider: Provider, clock: Clock
) -> None:
    await keys.verify(signed(provider.key), BODY)
    provider.keys = says(page(503))
    clock.ahead = signatures.FRESH_SECONDS + 1.0
    await keys.verify(signed(provider.key), BODY)


async def test_keys_older_than_a_day_are_never_used(keys: KeySet, provider: Provider, clock: Clock) -> None:
    await keys.verify(signed(provider.key), BODY)
    provider.keys = says(page(503))
    clock.ahead = signatures.LONGEST_SECONDS + 1.0
    for _ in range(2 * signatures.LOOKS):
        with pytest.raises(KeysUnavailable):
            await keys.verify(signed(provider.key), BODY)

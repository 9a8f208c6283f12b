"""What an operator asks of callbacks on the command line."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import pytest
from click.testing import CliRunner, Result
from standardwebhooks import Webhook

from service.callbacks import keys
from service.callbacks.delivering import Deliverer
from service.cli import main
from service.db import Database
from service.settings import Settings
from tests.callbacks import told
from tests.callbacks.receiver import Receiver, dead_address, receiving
from tests.provider import Reply

Command = Callable[..., Awaitable[Result]]
NOBODY = "01a1f984-a39d-76ba-a621-a06d9850bce1"


@pytest.fixture
def command(settings: Settings) -> Command:
    environment = {"ROUNDTRIP_DATABASE_URL": settings.require_database_url()}

    async def run(*words: object) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, [str(word) for word in words], env=environment)

    return run


@pytest.fixture
async def as_before(db: Database) -> AsyncIterator[None]:
    """The keys of the other tests."""
    await keys.read_keys(db)
    kept = await db.fetch("SELECT * FROM server_secrets WHERE starts_with(name, $1)", keys.NAME)
    yield
    await db.execute("DELETE FROM server_secrets WHERE starts_with(name, $1)", keys.NAME)
    for row in kept:
        await db.execute("INSERT INTO server_secrets VALUES ($1, $2, $3)", *row.values())


async def test_callbacks_are_listed_newest_first(
    command: Command, db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    async with receiving(Reply(503)) as failing:
        first = await told.ended(db, tenant, failing.address)
        second = await told.ended(db, tenant, receiver.address)
        await told.drain(deliverer)
    heading, *rows = (await command("callbacks", "list")).output.splitlines()
    assert heading.split()[:4] == ["JOB", "ENDED", "TENANT", "STATE"]
    assert [row.split()[0] for row in rows] == [str(second), str(first)]
    assert rows[1].endswith("HTTP 503")
    pending = (await command("callbacks", "list", "--state", "pending")).output.splitlines()[1:]
    assert [row.split()[0] for row in pending] == [str(first)]


async def test_one_is_told_once_more(
    command: Command, db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    job_id = await told.ended(db, tenant, receiver.address)
    await told.drain(deliverer)
    assert (await command("callbacks", "redeliver", job_id)).exit_code == 0
    await told.drain(deliverer)
    assert len(receiver.calls) == 2
    missing = await command("callbacks", "redeliver", NOBODY)
    assert (missing.exit_code, missing.stderr) == (1, f"roundtrip: there is no callback of {NOBODY}\n")


async def test_all_since_a_time_are_told_once_more(
    command: Command, db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    for _ in range(3):
        await told.ended(db, tenant, receiver.address)
    await told.drain(deliverer)
    assert "3 callbacks" in (await command("callbacks", "redeliver", "--since", "2026-01-01")).output
    await told.drain(deliverer)
    assert len(receiver.calls) == 6
    assert "3 callbacks" in (await command("callbacks", "redeliver", "--since", "2026-01-01T10:00:00.123456Z")).output
    for words in (("--since", "2126-01-01"), ("--since", "2026-01-01", "--state", "gone")):
        assert "0 callbacks" in (await command("callbacks", "redeliver", *words)).output
    assert (
        "0 callbacks"
        in (await command("callbacks", "redeliver", "--since", "2026-01-01", "--until", "2026-01-02")).output
    )


async def test_a_time_that_is_none_is_refused(command: Command) -> None:
    done = await command("callbacks", "redeliver", "--since", "0001-01-01T00:00:00+2359")
    assert (done.exit_code, done.stderr) == (2, "roundtrip: that time is before or after all others\n")


@pytest.mark.parametrize("words", [(), (NOBODY, "--since", "2026-01-01")])
async def test_a_redelivery_is_of_one_or_of_many(command: Command, tenant: UUID, words: tuple[str, ...]) -> None:
    done = await command("callbacks", "redeliver", *words)
    assert (done.exit_code, done.stderr) == (2, "roundtrip: name a job, or --since a time\n")


async def test_a_tenant_chooses_its_form_and_keeps_its_other_wishes(
    command: Command, db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    assert (await command("tenants", "set", "ours", "--on-doubt", "fail")).exit_code == 0
    done = await command("tenants", "set", "ours", "--callback-format", "standard")
    assert done.output == (
        "Jobs of ours that stay in doubt: fail. Callbacks: standard. "
        "Submissions that repeat another are joined: never.\n"
    )
    row = (await command("tenants", "list")).output.splitlines()[1]
    assert row.split()[:3] == ["ours", "fail", "standard"]
    await told.ended(db, tenant, receiver.address)
    await told.drain(deliverer)
    assert "webhook-signature" in receiver.calls[0].headers
    assert (await command("tenants", "set", "ours")).exit_code == 2
    assert (await command("tenants", "set", "nobody", "--callback-format", "fal")).exit_code == 1


async def test_the_secret_that_is_shown_verifies_and_can_be_rotated(
    command: Command, db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    await command("tenants", "set", "ours", "--callback-format", "standard")
    [shown, public, user] = (await command("tenants", "secret", "ours")).output.splitlines()
    [rotated, before, _, public_before, _] = (
        await command("tenants", "secret", "ours", "--rotate")
    ).output.splitlines()
    assert public.split()[0] == "v1a"
    assert public_before.split()[0] == public.split()[1]
    assert str(tenant) in user
    assert str(tenant) in (await command("tenants", "list")).output
    assert (await command("tenants", "secret", "ours", "--rotate")).exit_code == 1
    assert before.split()[0] == shown.split()[1] != rotated.split()[1]
    await told.ended(db, tenant, receiver.address)
    await told.drain(deliverer)
    for line in (shown, rotated):
        Webhook(line.split()[1]).verify(receiver.calls[0].body, dict(receiver.calls[0].headers))
    assert (await command("tenants", "secret", "nobody", "--rotate")).exit_code == 1
    assert (await command("tenants", "secret", "ours", "--rotate", "--again")).exit_code == 0


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(("words", "number"), [((), 2), (("--at-once",), 1)])
async def test_a_new_key_is_made(command: Command, db: Database, words: tuple[str, ...], number: int) -> None:
    before = await keys.read_keys(db)
    assert (await command("callbacks", "rotate-key", *words)).exit_code == 0
    after = await keys.read_keys(db)
    assert len(after) == number
    assert (before[0].public == keys.signing(after).public) is not bool(words)


async def test_a_callback_that_was_never_tried_is_listed_too(command: Command, db: Database, tenant: UUID) -> None:
    await told.ended(db, tenant, dead_address())
    [_, row] = (await command("callbacks", "list")).output.splitlines()
    assert row.endswith("http://127.0.0.1:9")

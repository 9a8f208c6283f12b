"""Beginning a bulk action, and ending it early; the doors and the commands call these."""

from dataclasses import dataclass
from uuid import UUID

from uuid_utils.compat import uuid7

from service.bulk import asking, records
from service.bulk.asking import Preview
from service.bulk.lifecycle import BulkVerb
from service.bulk.records import Conditions, NewAction
from service.db import Database
from service.errors import Invalid


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks for what. `of_tenant` is None for the jobs of all tenants."""

    tenant_id: UUID
    key_id: str
    verb: BulkVerb
    of_tenant: UUID | None
    conditions: Conditions


async def tenant_meant(db: Database, name: str) -> UUID | None:
    """None for `*`, which is everybody. Raises Invalid."""
    if name == "*":
        return None
    row = await db.fetchrow("SELECT id FROM tenants WHERE name = $1", name)
    if row is None:
        raise Invalid.at("body", "tenant", msg="There is no such tenant.")
    return UUID(str(row["id"]))


async def preview(db: Database, asked: Asked) -> Preview:
    """Raises Invalid."""
    return await asking.preview(db, asked.verb, asked.of_tenant, asking.filter_of(asked.verb, asked.conditions))


async def begin(db: Database, asked: Asked, idempotency_key: str) -> tuple[UUID, bool]:
    """The action, and whether it is new; then a worker has to be woken. Raises Invalid or IdempotencyMismatch."""
    wanted = asking.filter_of(asked.verb, asked.conditions)
    fingerprint = asking.fingerprint_of(asked.verb, asked.of_tenant, asked.conditions)
    if known := await records.find_known(db, asked.tenant_id, idempotency_key, fingerprint):
        return known, False
    expected = await asking.preview(db, asked.verb, asked.of_tenant, wanted)
    action = NewAction(
        id=uuid7(),
        tenant_id=asked.tenant_id,
        key_id=asked.key_id,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint,
        verb=asked.verb,
        of_tenant=asked.of_tenant,
        conditions=asked.conditions,
        expected=expected.jobs + expected.skipped,
        expected_is_exact=expected.is_exact,
        expected_cost=expected.cost,
    )
    return await records.create(db, action)

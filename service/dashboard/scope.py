"""Whose jobs a page is about: those of the tenant who looks, or of one or all where an administrator does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from starlette.requests import Request

from service.context import Context
from service.dashboard.access import Viewer, signed_in
from service.db import DatabaseAway
from service.errors import NotFound
from service.jobs.lists import MOST_OWNERS
from service.requests import JSON
from service.tenants import tenants

# The field of a page's address.
TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Scope:
    """`tenant_id` is None for all tenants. `names` are those that may be chosen, which is nobody's but an
    administrator's to know."""

    viewer: Viewer
    tenant_id: UUID | None
    names: Mapping[UUID, str]

    @property
    def tenant(self) -> str | None:
        """The one that was chosen."""
        return self.names.get(self.tenant_id) if self.tenant_id else None

    @property
    def shows_tenants(self) -> bool:
        """Whether jobs of several tenants may stand side by side."""
        return self.tenant_id is None and len(self.names) > 1

    @property
    def owners(self) -> Sequence[UUID] | None:
        """Those whose jobs are listed; None: there are too many to list them together."""
        if self.tenant_id is not None:
            return [self.tenant_id]
        return list(self.names) if 0 < len(self.names) <= MOST_OWNERS else None


def is_refresh(request: Request) -> bool:
    """A page asks by itself for what of it has changed: nobody did anything, so that it keeps no session alive."""
    return request.headers.get("accept", "") == JSON


async def scope_of(request: Request) -> Scope:
    """Raises NotSignedIn, NotFound for a tenant that is not there, or DatabaseAway if one was chosen."""
    viewer = await signed_in(request, in_use=not is_refresh(request))
    if viewer.tenant_id is not None:
        return Scope(viewer, viewer.tenant_id, {})
    context: Context = request.state.context
    chosen = request.query_params.get(TENANT)
    try:
        names = {row["id"]: str(row["name"]) for row in await tenants(context.db)}
    except DatabaseAway:
        if chosen:
            raise  # What was asked about one tenant is never answered, nor done, about all of them.
        names = {}  # The page says of each of its parts what it does not know.
    if not chosen:
        return Scope(viewer, None, names)
    found = [tenant_id for tenant_id, name in names.items() if name == chosen]
    if not found:
        raise NotFound("There is no such tenant.")
    return Scope(viewer, found[0], names)

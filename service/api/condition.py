"""How the service is: what is wrong now, which processes work, and how the database is."""

from starlette.requests import Request
from starlette.responses import Response

from service.api import shapes
from service.condition import database, processes
from service.condition.findings import Surroundings
from service.condition.looking import condition_of
from service.context import Context
from service.requests import answer, authenticate


async def show_condition(request: Request) -> Response:
    """Of the tenant's own jobs; for administrators, of everything."""
    caller = await authenticate(request, "metrics")
    context: Context = request.state.context
    tenant_id = None if caller.may("admin") else caller.tenant_id
    found = await condition_of(Surroundings(context.db, tenant_id, context.settings.public_url, context.nudger.is_away))
    findings = [
        shapes.Finding(
            each.kind,
            each.severity.value,
            each.words,
            each.advice,
            each.since,
            each.count,
            each.count_is_exact,
            dict(each.filter),
        )
        for each in found.findings
    ]
    return answer(shapes.Condition(found.at, findings, list(found.unknown)))


async def list_processes(request: Request) -> Response:
    """For administrators."""
    await authenticate(request, "admin")
    context: Context = request.state.context
    names = shapes.Process.__struct_fields__
    found = await processes.shown(context.db)
    return answer({"processes": [shapes.Process(**{name: getattr(each, name) for name in names}) for each in found]})


async def show_database(request: Request) -> Response:
    """For administrators."""
    await authenticate(request, "admin")
    context: Context = request.state.context
    state, tables = await database.server(context.db), await database.tables(context.db)
    names = [name for name in shapes.DatabaseState.__struct_fields__ if name != "tables"]
    columns = shapes.TableState.__struct_fields__
    shown = [shapes.TableState(**{name: getattr(each, name) for name in columns}) for each in tables]
    return answer(shapes.DatabaseState(**{name: getattr(state, name) for name in names}, tables=shown))

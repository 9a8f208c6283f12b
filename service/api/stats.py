"""Figures of jobs, and the prices that their cost is made of."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.api.rendering import decimal
from service.api.shapes import Price, Stats
from service.context import Context
from service.errors import Forbidden
from service.requests import answer, authenticate
from service.stats import answers
from service.stats.measures import ACCURACY
from service.stats.prices import prices
from service.stats.questions import read_question


async def show_stats(request: Request) -> Response:
    """Of the tenant's own jobs."""
    caller = await authenticate(request, "metrics")
    context: Context = request.state.context
    question = read_question(request.query_params.multi_items(), datetime.now(UTC))
    if not caller.may("read") and question.wanted.asks_what_is_in_jobs:
        raise Forbidden("This key may not see what is in jobs, nor search for it.")
    found = await answers.answer(context.db, caller.tenant_id, question)
    return answer(
        Stats(
            created_after=question.wanted.created_after,
            created_before=question.wanted.created_before,
            group_by=list(question.group_by),
            measure=list(question.measures),
            of=question.of,
            percentile_accuracy=ACCURACY,
            currency=found.currency,
            complete=found.complete,
            groups=[
                {**group.of, **{name: _shown(value) for name, value in group.figures.items()}} for group in found.groups
            ],
        )
    )


def _shown(figure: Any) -> Any:
    return decimal(figure) if isinstance(figure, Decimal) else figure


async def list_prices(request: Request) -> Response:
    """What the operator pays is for administrators."""
    await authenticate(request, "admin")
    context: Context = request.state.context
    valid = await prices(context.db)
    return answer(
        {
            "prices": [
                Price(price.model, price.provider, price.unit, decimal(price.amount), price.currency, price.since)
                for price in valid
            ]
        }
    )

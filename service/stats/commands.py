"""The program's commands for figures: what models cost, and counting all that has ended."""

from decimal import Decimal, InvalidOperation
from pathlib import Path

import click

from service.local.console import data_option, end, show_table
from service.operating import PROVIDERS, note_unknown, with_database


@click.group()
def prices() -> None:
    """What models cost, so that each job has a cost."""


@prices.command("list")
@data_option
def list_prices(data: Path | None) -> None:
    """Those that hold now."""
    from service.stats.prices import prices

    heading = ("MODEL", "PROVIDER", "UNIT", "AMOUNT", "CURRENCY", "SINCE")
    rows = (
        (price.model, price.provider, price.unit, f"{price.amount:f}", price.currency, f"{price.since:%F %T}Z")
        for price in with_database(data, prices)
    )
    show_table([heading, *rows])


def read_amount(_: click.Context, __: click.Parameter, word: str) -> Decimal:
    try:
        amount = Decimal(word)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not (amount.is_finite() and 0 <= amount < 10**12 and -int(amount.as_tuple().exponent) <= 18):
        raise click.BadParameter("must be a decimal, not below zero, with at most 18 digits after the point")
    return amount


def read_unit(_: click.Context, __: click.Parameter, word: str) -> str:
    from service.stats.prices import UNITS, is_unit

    if not is_unit(word):
        raise click.BadParameter(f"must be one of {', '.join(UNITS)} or usage.NAME")
    return word


def read_currency(_: click.Context, __: click.Parameter, word: str) -> str:
    if not (len(word) == 3 and word.isascii() and word.isalpha()):
        raise click.BadParameter("must be three letters, such as USD")
    return word.upper()


def read_provider(_: click.Context, __: click.Parameter, word: str | None) -> str:
    from service.stats.prices import ANY_PROVIDER

    return word or ANY_PROVIDER


unit_argument = click.argument("unit", callback=read_unit)
provider_option = click.option(
    "--provider",
    type=PROVIDERS,
    callback=read_provider,
    help="Whose price it is; without it, of all that have none of their own for the model.",
)


@prices.command("set")
@click.argument("model")
@unit_argument
@click.argument("amount", callback=read_amount)
@provider_option
@click.option("--currency", default="USD", show_default=True, callback=read_currency)
@data_option
def set_price(model: str, unit: str, amount: Decimal, provider: str, currency: str, data: Path | None) -> None:
    """What a UNIT of MODEL costs from now on: a job, a second, a billable_unit, or usage.NAME of what it counts itself.

    Several units of one model are added up; a provider that has prices of its own for it costs these alone. Jobs that
    have ended keep their cost.
    """
    from service.stats.prices import OtherCurrency, set_price

    note_unknown(data, model)
    try:
        price = with_database(data, lambda db: set_price(db, model, unit, amount, currency, provider))
    except OtherCurrency:
        end("there are prices in another currency, and costs of two cannot be added up: remove them first", 1)
    cost = f"{price.amount:f} {price.currency} a {price.unit}{_of(provider)}"
    click.echo(f"{price.model} costs {cost} since {price.since:%F %T}Z.")


def _of(provider: str) -> str:
    from service.stats.prices import ANY_PROVIDER

    return "" if provider == ANY_PROVIDER else f" of {provider}"


@prices.command("remove")
@click.argument("model")
@unit_argument
@provider_option
@data_option
def remove_price(model: str, unit: str, provider: str, data: Path | None) -> None:
    """From now on there is none. Jobs that have ended keep their cost."""
    from service.stats.prices import remove_price

    if not with_database(data, lambda db: remove_price(db, model, unit, provider)):
        end(f"there is no price for a {unit}{_of(provider)} of {model}", 1)
    click.echo(f"{model} has no price for a {unit}{_of(provider)} any more.")


@click.group()
def stats() -> None:
    """The figures of /v1/stats."""


@stats.command("count")
@data_option
def count(data: Path | None) -> None:
    """Count at once all jobs that have ended; workers do it in small batches."""
    from service.stats.counting import count_all

    click.echo(f"Counted {with_database(data, count_all):,}.")

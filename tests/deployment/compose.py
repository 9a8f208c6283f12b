"""compose.yaml as Docker would read it: with the operator's variables in place."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
REFERENCE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<rest>[^${}]*))?\}")

VARIABLES = {
    "POSTGRES_PASSWORD": "postgresPassword",
    "BROKER_PASSWORD": "brokerPassword",
    "ROUNDTRIP_ADMIN_KEY": "admin:a-long-enough-secret",
    "ROUNDTRIP_PUBLIC_URL": "http://127.0.0.1:8000",
    "FAL_KEY": "sandbox:sandbox",
}
SANDBOX = {
    "COMPOSE_PROFILES": "sandbox",
    "ROUNDTRIP_FAL_QUEUE_URL": "http://proxy:8001",
    "ROUNDTRIP_FAL_JWKS_URL": "http://proxy:8001/.well-known/jwks.json",
}
VALKEY = {
    "COMPOSE_PROFILES": "valkey",
    "RABBITMQ_SCALE": "0",
    "ROUNDTRIP_BROKER_URL": "redis://:brokerPassword@valkey:6379/0",
}

Json = dict[str, Any]


class VariableMissing(Exception):
    """An operator did not set what has to be set."""


def read(variables: Mapping[str, str] = VARIABLES) -> Json:
    """The whole file. Raises VariableMissing."""

    def value(found: re.Match[str]) -> str:
        name, how, rest = found.group("name", "how", "rest")
        if given := variables.get(name):
            return given
        if how == ":?":
            raise VariableMissing(f"{name}: {rest}")
        return rest or ""

    text = (ROOT / "compose.yaml").read_text()
    # Innermost first: a default may hold a reference of its own.
    while REFERENCE.search(text):
        text = REFERENCE.sub(value, text)
    file: Json = yaml.safe_load(text)
    for service in file["services"].values():
        environment = service.setdefault("environment", {})
        handed_on = {name for name, text in environment.items() if text is None}
        service["environment"] = {
            name: variables.get(name) if name in handed_on else text
            for name, text in environment.items()
            if name not in handed_on or name in variables
        }
    return file


def services(variables: Mapping[str, str] = VARIABLES) -> dict[str, Json]:
    found: dict[str, Json] = read(variables)["services"]
    return found


def ours(variables: Mapping[str, str] = VARIABLES) -> dict[str, Json]:
    """The services that run the program."""
    return {name: service for name, service in services(variables).items() if service["image"] == "roundtrip"}

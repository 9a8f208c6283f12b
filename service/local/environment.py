"""Settings as environment variables, for the processes that are started with them."""

from pydantic import SecretStr

from service.settings import Settings


def environment_of(settings: Settings) -> dict[str, str]:
    """Only what was set; the rest keeps its default in the new process too."""
    return {_variable(name): _text(getattr(settings, name)) for name in settings.model_fields_set}


def _variable(field: str) -> str:
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else f"ROUNDTRIP_{field.upper()}"


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            return value.get_secret_value()
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(map(str, value))
        case _:
            return str(value)

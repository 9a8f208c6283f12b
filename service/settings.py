"""Every setting, read once from the environment. A wrong or missing one ends the program with one line."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class SettingsError(SystemExit):
    """Ends the program with exit status 2 and one line on stderr that names the setting."""

    def __init__(self, line: str) -> None:
        super().__init__(2)
        self.line = line

    def __str__(self) -> str:
        return self.line


def _http_url(value: str) -> str:
    parts = _split(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http or https address")
    return value.rstrip("/")


def _split(value: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        _ = parts.port  # It is read only when asked for.
    except ValueError as error:
        raise ValueError(f"is not an address: {error}") from None
    return parts


def _postgres_url(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    _split(value)
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+asyncpg"}:
        raise ValueError("must be a postgresql:// address")
    return f"postgresql://{rest}"


def _admin_key(value: SecretStr) -> SecretStr:
    identifier, separator, secret = value.get_secret_value().partition(":")
    if not separator or not identifier or len(secret) < 16:
        raise ValueError("must be id:secret, the secret at least 16 characters long")
    return value


def _broker_url(value: str) -> str:
    scheme = _split(value).scheme
    if scheme not in {"redis", "rediss", "redis+socket", "amqp", "amqps", "pgmq"}:
        raise ValueError("must be a redis://, amqp:// or pgmq:// address")
    if scheme == "pgmq" and find_spec("pgmq") is None:
        raise ValueError("needs the experiment's packages: make setup EXTRA=pgmq")
    return value


def _artifacts_url(value: str) -> str:
    parts = _split(value)
    local = parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.strip("/")
    if not local and not (parts.scheme in {"s3", "gs", "az", "abfss"} and parts.netloc):
        raise ValueError("must be a file:///, s3://, gs:// or az:// address")
    return value


def _origin(value: str) -> str:
    parts = _split(value)
    if value != "*" and (parts.scheme not in {"http", "https"} or not parts.netloc or parts.path or parts.query):
        raise ValueError("must be origins like https://app.example, separated by commas, or *")
    return value.lower()


def _listed(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


Duration = Annotated[float, Field(gt=0, le=10_000_000, allow_inf_nan=False)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
ModelId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+$", max_length=200)]
Origin = Annotated[str, AfterValidator(_origin)]

DEFAULT_FAL_QUEUE_URL = "https://queue.fal.run"
DEFAULT_FAL_JWKS_URL = "https://rest.fal.ai/.well-known/jwks.json"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="ROUNDTRIP_", frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True
    )

    database_url: Annotated[str, AfterValidator(_postgres_url)] | None = None
    broker_url: Annotated[str, AfterValidator(_broker_url)] | None = None
    public_url: HttpUrl = "http://127.0.0.1:8000"
    fal_key: SecretStr | None = Field(default=None, validation_alias="FAL_KEY")
    fal_queue_url: HttpUrl = DEFAULT_FAL_QUEUE_URL
    fal_jwks_url: HttpUrl = DEFAULT_FAL_JWKS_URL
    fal_user_id: str | None = None
    artifacts_url: Annotated[str, AfterValidator(_artifacts_url)] | None = None
    admin_key: Annotated[SecretStr, AfterValidator(_admin_key)] | None = None
    allow_private_networks: bool = False
    models: Annotated[tuple[ModelId, ...], NoDecode, BeforeValidator(_listed)] = ()
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_listed)] = ()
    data: Path = Path(".roundtrip")

    submit_timeout_seconds: Duration = 15
    submit_retry_seconds: Duration = 3600
    ambiguous_seconds: Duration = 60
    first_poll_seconds: Duration = 20
    poll_seconds: Duration = 30
    sweep_seconds: Duration = 5
    canary_seconds: Duration = 10
    lost_after_seconds: Duration = 600
    longest_job_seconds: Duration = 604_800
    idempotency_days: Duration = 7
    session_idle_seconds: Duration = 3_600
    session_seconds: Duration = 43_200

    @property
    def artifacts_location(self) -> str:
        return self.artifacts_url or (self.data.resolve() / "artifacts").as_uri()

    @property
    def uses_real_fal(self) -> bool:
        """Whether jobs leave this machine: a key was given, or another fal address."""
        return self.fal_key is not None or self.fal_queue_url != DEFAULT_FAL_QUEUE_URL

    def require_database_url(self) -> str:
        if self.database_url is None:
            raise SettingsError("ROUNDTRIP_DATABASE_URL is not set (`roundtrip up` brings its own PostgreSQL)")
        return self.database_url

    def require_broker_url(self) -> str:
        if self.broker_url is None:
            raise SettingsError("ROUNDTRIP_BROKER_URL is not set (`roundtrip up` brings its own broker)")
        return self.broker_url


PLAIN_WORDS = {"string_pattern_mismatch": "must be model IDs of the form owner/name, separated by commas"}


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; `overrides` win over it. Raises SettingsError."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        variable = name if name.isupper() else f"ROUNDTRIP_{name.upper()}"
        words = PLAIN_WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        words = words.replace("Input should be", "must be", 1).partition(", unable to ")[0]
        raise SettingsError(f"{variable} {words}") from None

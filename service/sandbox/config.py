"""Every setting of the sandbox, read in one place from ROUNDTRIP_SANDBOX_* variables."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from service.sandbox.faults import Knobs
from service.settings import HttpUrl, SettingsError

PREFIX = "ROUNDTRIP_SANDBOX_"


class SandboxConfig(BaseSettings):
    """`knobs` apply to all requests; a request's own `sandbox` field wins over them, name by name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    public_url: HttpUrl = "http://127.0.0.1:8001"
    user_id: str = "sandbox"
    knobs: Knobs = Knobs()
    journal: Path | None = None

    concurrency: int = Field(default=2, ge=1, le=64)
    keep_seconds: float = Field(default=3600, gt=0)
    max_requests: int = Field(default=20_000, ge=1)
    max_file_bytes: int = Field(default=512 * 2**20, ge=1)
    max_body_bytes: int = Field(default=32 * 2**20, ge=1)
    ping_seconds: float = Field(default=15, gt=0)
    silence_seconds: float = Field(default=120, gt=0)

    fetch_seconds: float = Field(default=20, gt=0)
    fetch_max_bytes: int = Field(default=32 * 2**20, ge=1)
    max_pixels: int = Field(default=40_000_000, ge=1)

    webhook_seconds: float = Field(default=15, gt=0)
    webhook_tries: int = Field(default=10, ge=1)
    webhook_backoff_seconds: float = Field(default=1, ge=0)
    webhook_backoff_cap_seconds: float = Field(default=600, ge=0)
    webhooks_at_once: int = Field(default=64, ge=1)

    @classmethod
    def from_env(cls, **overrides: Any) -> "SandboxConfig":
        """Read the environment; `overrides` win over it. Raises SettingsError."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            problem = error.errors()[0]
            name, *within = (str(part) for part in problem["loc"])
            where = "".join(f" {part}:" for part in within)
            words = problem["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{PREFIX}{name.upper()}{where} {words}") from None
        except SourceError as error:
            raise SettingsError(f"{PREFIX}KNOBS must be a JSON object: {error.__cause__}") from None

"""What an operator can set of a runtime, as `name=value`: what all of them share."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Precision = Literal["auto", "bfloat16", "float16", "float32"]


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    dtype: Precision = Field(default="auto", description="bfloat16 on a GPU and float32 on a CPU, unless it is set.")
    revision: str | None = Field(
        default=None, pattern="^[0-9a-f]{40}$", description="The commit that the folder has to be a snapshot of."
    )


class RemoteCode(Options):
    """Of a model whose own Python files run in the worker."""

    trust_remote_code: bool = Field(default=False, description="Has to be set: the snapshot's own code will run.")


class Server(BaseModel):
    """Of a model that an OpenAI-compatible server beside the worker runs."""

    server_url: str | None = Field(default=None, description="Up to and with /v1; the folder is not used then.")
    server_model: str | None = Field(default=None, description="What the server calls the model.")
    server_key: SecretStr | None = Field(default=None, description="Its API key, if it wants one.")
    server_seconds: float = Field(default=600, gt=0, description="The longest silence that is waited for.")

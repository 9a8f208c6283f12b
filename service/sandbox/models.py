"""The models of this provider: fal's five by their own IDs, and one of its own that repeats its input."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from service.sandbox.describe import MARK, LlavaInput, MiniCpmInput, NemotronInput, llava, mini_cpm, nemotron
from service.sandbox.failures import GatewayFailure, ModelFailure
from service.sandbox.segment import Sa2vaInput, sa2va
from service.sandbox.upscale import UpscalerInput, upscaler
from service.sandbox.work import Work

NAMESPACES = {"workflows", "comfy"}


class EchoInput(BaseModel):
    """Anything: it stands for a model that nobody wrote a schema for."""

    model_config = ConfigDict(extra="allow")


def echo(input: EchoInput, work: Work) -> dict[str, Any]:
    work.log("repeating the input")
    return {"output": f"{MARK} This is your input.", "input": input.model_dump()}


@dataclass(frozen=True, slots=True)
class Imitation:
    Input: type[BaseModel]
    run: Callable[[Any, Work], dict[str, Any]]

    def __call__(self, value: Any, work: Work) -> dict[str, Any]:
        """Check the input as fal's runners do, after the queue took it. Raises Failure."""
        try:
            input = self.Input.model_validate(value)
        except ValidationError as error:
            raise ModelFailure.of_validation(error) from None
        return self.run(input, work)


IMITATIONS = {
    "fal-ai/nemotron-diffusion-vlm": Imitation(NemotronInput, nemotron),
    "fal-ai/llava-next": Imitation(LlavaInput, llava),
    "fal-ai/mini-cpm": Imitation(MiniCpmInput, mini_cpm),
    "fal-ai/sa2va/8b/image": Imitation(Sa2vaInput, sa2va),
    "fal-ai/flux-vision-upscaler": Imitation(UpscalerInput, upscaler),
    "sandbox/echo": Imitation(EchoInput, echo),
}


def app_of(model: str) -> str:
    """The part of an endpoint's ID that its requests are addressed by: no sub-path."""
    parts = model.split("/")
    return "/".join(parts[: 3 if parts[0] in NAMESPACES else 2])


APPS = {app_of(model) for model in IMITATIONS}


def find_imitation(model: str) -> Imitation:
    """Raises GatewayFailure for a path that its app does not have."""
    if model in IMITATIONS:
        return IMITATIONS[model]
    path = model.removeprefix(app_of(model)) or "/"
    raise GatewayFailure(404, "not_found", f"Path {path} not found", {"x-fal-billable-units": "0"})

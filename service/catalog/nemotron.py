"""Nemotron Diffusion VLM: answers a prompt about an image, decoding blocks of tokens by diffusion."""

from typing import Self

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from service.catalog.base import Model, Problem, marks_in
from service.catalog.lifting import lift
from service.catalog.schemas import FileInput, InputSchema

DEFAULT_STEPS = 256
STEP_FIELDS = ("num_inference_steps", "inference_steps")


class NemotronInput(InputSchema):
    image_url: FileInput = Field(description="The image to look at.")
    prompt: str = Field(description="What to say about the image.")
    max_tokens: int = Field(default=512, ge=1, description="The most tokens to generate.")
    num_inference_steps: int = Field(
        default=DEFAULT_STEPS,
        description=(
            "Diffusion decoding steps. With B = max_tokens / block_length, rounded up, a value that is sent "
            "must be at least B and divisible by B; one that is left out is 256, rounded up to a multiple of B."
        ),
    )
    inference_steps: int = Field(
        default=DEFAULT_STEPS,
        description="Another name of num_inference_steps.",
        json_schema_extra={"x-hidden": True},
    )
    block_length: int = Field(default=32, ge=1, description="Tokens that are decoded together as one block.")
    threshold: float = Field(default=0.9, description="Confidence from which a token is taken as decoded.")

    @property
    def blocks(self) -> int:
        return -(-self.max_tokens // self.block_length)

    @property
    def steps(self) -> int:
        """The steps to run: those that were sent, or else the default rounded up to whole blocks."""
        if "num_inference_steps" in self.model_fields_set:
            return self.num_inference_steps
        if "inference_steps" in self.model_fields_set:
            return self.inference_steps
        return -(-DEFAULT_STEPS // self.blocks) * self.blocks

    @model_validator(mode="after")
    def check_steps(self) -> Self:
        sent = [name for name in STEP_FIELDS if name in self.model_fields_set]
        if len(sent) == 2 and self.num_inference_steps != self.inference_steps:
            raise _problem("inference_steps", "value_error", "Input should equal num_inference_steps if both are sent")
        if sent and self.steps < self.blocks:
            raise _problem(sent[0], "greater_than_equal", f"Input should be at least {self.blocks}, one step a block")
        if sent and self.steps % self.blocks:
            raise _problem(sent[0], "multiple_of", f"Input should be a multiple of {self.blocks}, the number of blocks")
        return self


def _problem(field: str, kind: str, message: str) -> ValidationError:
    """A whole-model validator's own errors have no place; this one is found at the field."""
    details = InitErrorDetails(type=PydanticCustomError(kind, message), loc=(field,), input=None)
    return ValidationError.from_exception_data(NemotronInput.__name__, [details])


class NemotronUsage(BaseModel):
    prompt_tokens: int = Field(description="Tokens of the prompt, the image's included.")
    completion_tokens: int = Field(description="Tokens generated.")
    num_function_evals: int = Field(description="Forward passes of the model that decoding took.")


class NemotronTimings(BaseModel):
    """All in seconds."""

    total_time: float = Field(description="The whole request.")
    image_validation_time: float = Field(description="Fetching and checking the image.")
    preprocessing_time: float = Field(description="Filling in the chat template and making tensors.")
    gpu_transfer_time: float = Field(description="Copying tensors to the GPU.")
    generation_time: float = Field(description="Generating tokens.")
    decode_time: float = Field(description="Turning tokens into text.")


class NemotronOutput(BaseModel):
    output: str = Field(description="The answer.")
    usage: NemotronUsage | None = Field(default=None, description="Tokens and forward passes.")
    timings: NemotronTimings | None = Field(default=None, description="Where the time went.")


def limits(input: NemotronInput) -> list[Problem]:
    return marks_in(input.prompt, "[IMG]", "[IMG_BREAK]", "[IMG_END]")


MODEL = Model(
    id="fal-ai/nemotron-diffusion-vlm",
    title="Nemotron Diffusion VLM",
    lift=lift,
    Input=NemotronInput,
    Output=NemotronOutput,
    limits=limits,
    example={
        "image_url": "https://storage.googleapis.com/falserverless/example_inputs/dog.png",
        "prompt": "What is in this picture? One sentence.",
    },
)

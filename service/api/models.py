"""The catalogue, with JSON Schemas."""

from starlette.requests import Request
from starlette.responses import Response

from service.api.shapes import ModelCard
from service.catalog import Model
from service.context import Context
from service.requests import answer, authenticate


async def list_models(request: Request) -> Response:
    await authenticate(request, "metrics")
    context: Context = request.state.context
    return answer({"models": [card(model) for model in context.catalog.models]})


async def show_model(request: Request) -> Response:
    await authenticate(request, "metrics")
    context: Context = request.state.context
    return answer(card(context.catalog.find(request.path_params["model"])))


def card(model: Model) -> ModelCard:
    return ModelCard(
        id=model.id,
        title=model.title,
        input_schema=model.Input.model_json_schema() if model.Input else None,
        output_schema=model.Output.model_json_schema() if model.Output else None,
        example=dict(model.example),
    )

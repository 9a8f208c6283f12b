"""What the models' schemas share: the strict base of inputs, a file going in, an image coming out."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

MAX_URL_LENGTH = 2048

_HTTP_URL = re.compile(
    r"""
    https?://
    (?: \[ [0-9a-f:.]+ \] | [^\s\x00-\x1f\x7f-\x9f/?\#@\\:\[\]]+ )  # host; an '@' here would be userinfo
    (?: : (?P<port> [0-9]{1,5} ) )?
    (?: [/?\#] [^\s\x00-\x1f\x7f-\x9f]* )?
    """,
    re.IGNORECASE | re.VERBOSE,
)

# The payload's quantifier is possessive: a wrong character at the end of five megabytes must not be looked for
# backwards. The parameters' is not, because Python 3.11.2 matches a possessive group wrongly.
_DATA_URI = re.compile(
    r"""
    (?i: data: ) (?: [\w.+-]+ / [\w.+-]+ )? (?: ; [\w-]+ = [\w.%+-]* )* (?i: ;base64 ) ,
    (?P<payload> [A-Za-z0-9+/]++ ={0,2} )
    """,
    re.ASCII | re.VERBOSE,
)


def _check_http_url(url: str) -> None:
    if len(url) > MAX_URL_LENGTH:
        raise PydanticCustomError(
            "url_too_long", "URL should have at most {max_length} characters", {"max_length": MAX_URL_LENGTH}
        )
    match = _HTTP_URL.fullmatch(url)
    if match is None or int(match["port"] or 0) > 65535:
        raise PydanticCustomError(
            "url_parsing", "Input should be a URL with a host, and without whitespace and credentials"
        )


def _check_data_uri(uri: str) -> None:
    match = _DATA_URI.fullmatch(uri)
    if match is None or (match.end("payload") - match.start("payload")) % 4:
        raise PydanticCustomError(
            "data_uri_parsing", "Input should be a data URI of the form data:<type>;base64,<padded base64>"
        )


def _check_file(value: str) -> str:
    scheme = value[:8].lower()
    if scheme.startswith(("http://", "https://")):
        _check_http_url(value)
    elif scheme.startswith("data:"):
        _check_data_uri(value)
    else:
        raise PydanticCustomError("url_scheme", "Input should be an http(s) URL or a base64 data URI")
    return value


FileInput = Annotated[str, AfterValidator(_check_file), WithJsonSchema({"type": "string", "format": "uri"})]


class InputSchema(BaseModel):
    """What a client may send. It is only checked: what is sent on is what the client sent."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class Image(BaseModel):
    url: str = Field(description="Where the file can be downloaded.")
    content_type: str | None = Field(default=None, description="Media type.")
    file_name: str | None = Field(default=None, description="Name of the file.")
    file_size: int | None = Field(default=None, description="Size in bytes.")
    width: int | None = Field(default=None, description="Width in pixels.")
    height: int | None = Field(default=None, description="Height in pixels.")

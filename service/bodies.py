"""Request bodies, read once, within a limit."""

from starlette.requests import Request

from service.errors import BadRequest, BodyTooLarge

LARGEST_REQUEST = 25 * 2**20


async def read_body(request: Request, limit: int) -> bytes:
    """Raises BodyTooLarge as soon as the limit is passed, or announced to be."""
    announced = request.headers.get("content-length", "")
    if announced and not (announced.isascii() and announced.isdecimal()):
        raise BadRequest("The Content-Length is not a number.")
    if announced and int(announced) > limit:
        raise BodyTooLarge(f"The body may have at most {limit:,} bytes.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(f"The body may have at most {limit:,} bytes.")
    return bytes(body)

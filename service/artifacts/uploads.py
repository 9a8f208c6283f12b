"""Files that clients send: kept and measured; in one piece or in parts, now or at an address promised before."""

import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from uuid import UUID

from service.artifacts import records
from service.artifacts.pictures import PictureRefused, measure_in_child
from service.artifacts.records import Measured, Upload
from service.artifacts.serving import OCTETS, clean_name, type_as_called
from service.artifacts.storage import PartMissing, TooLarge
from service.context import Context
from service.errors import BadRequest, BodyTooLarge, Invalid, NotFound

LARGEST_UPLOAD = 100 * 2**20
LARGEST_IN_PARTS = 512 * 2**20
MOST_PARTS = 1_000
TICKET_SECONDS = 86_400.0
LONGEST_TYPE = 200
_RANDOM = re.compile(r"[A-Za-z0-9_-]{1,64}")


async def keep(context: Context, chunks: AsyncIterator[bytes], claimed: str, limit: int) -> Measured:
    """Store a file, measured. What is no picture keeps the type it is called by, if that is a harmless one."""
    try:
        async with context.storage.spool(chunks, limit) as spooled:
            if spooled.size == 0:
                raise Invalid.at("body", msg="The file is empty.", kind="missing")
            try:
                picture, _ = await measure_in_child(spooled.path, mask=False)
            except PictureRefused as error:
                raise Invalid.at("body", msg=str(error), kind="image_too_large") from None
            stored = await context.storage.keep(spooled)
    except TooLarge:
        raise BodyTooLarge(f"A file may have at most {limit:,} bytes.") from None
    content_type = type_as_called(claimed) if picture.content_type == OCTETS else picture.content_type
    kept = Measured(stored.sha256, stored.size, content_type, picture.width, picture.height)
    await records.record_upload(context.db, kept)
    return kept


async def promise(context: Context, tenant_id: UUID, file_name: str, content_type: str) -> Upload:
    """An address for a file whose bytes are still to come, and the ticket with which to send them."""
    name = clean_name(file_name)
    upload = Upload(secrets.token_urlsafe(16), secrets.token_urlsafe(24), name, content_type[:LONGEST_TYPE])
    await records.begin_upload(context.db, tenant_id, upload)
    return upload


async def open_ticket(context: Context, ticket: str) -> Upload:
    """Raises NotFound."""
    upload = None
    if _RANDOM.fullmatch(ticket):
        upload = await records.find_ticket(context.db, ticket, TICKET_SECONDS)
    if upload is None:
        raise NotFound("There is no such upload, or its time is over.")
    return upload


async def find(context: Context, upload_id: str) -> Upload | None:
    """A file that was promised, whether it came or not."""
    return await records.find_upload(context.db, upload_id) if _RANDOM.fullmatch(upload_id) else None


async def receive(context: Context, ticket: str, chunks: AsyncIterator[bytes], claimed: str | None) -> Upload:
    """The bytes of a promised file. The same bytes may come again, as from a client that tries twice."""
    upload = await open_ticket(context, ticket)
    return await _finish(context, upload, await keep(context, chunks, claimed or upload.content_type, LARGEST_UPLOAD))


async def receive_part(context: Context, ticket: str, number: int, chunks: AsyncIterator[bytes]) -> str:
    """Returns the part's SHA-256."""
    upload = await open_ticket(context, ticket)
    if not 1 <= number <= MOST_PARTS:
        raise Invalid.at("path", "part", msg=f"Must be 1 to {MOST_PARTS:,}.", kind="value_error")
    try:
        async with context.storage.spool(chunks, LARGEST_UPLOAD) as spooled:
            await context.storage.keep_part(upload.id, number, spooled)
            return spooled.sha256
    except TooLarge:
        raise BodyTooLarge(f"A part may have at most {LARGEST_UPLOAD:,} bytes.") from None


async def join(context: Context, ticket: str, parts: Mapping[int, str]) -> Upload:
    """Make the file of its parts, given as number and SHA-256, in the order of their numbers."""
    upload = await open_ticket(context, ticket)
    if upload.sha256 is not None:
        return upload  # It was joined before; the answer to that was lost.
    ordered = dict(sorted(parts.items()))
    try:
        chunks = context.storage.read_parts(upload.id, ordered)
        kept = await keep(context, chunks, upload.content_type, LARGEST_IN_PARTS)
    except PartMissing as error:
        raise BadRequest(f"Part {error} did not come, or is another one.") from None
    upload = await _finish(context, upload, kept)
    await context.storage.drop_parts(upload.id, ordered)
    return upload


async def _finish(context: Context, upload: Upload, kept: Measured) -> Upload:
    if not await records.finish_upload(context.db, upload.id, kept.sha256):
        raise BadRequest("Another file was sent to this address before.")
    return replace(upload, sha256=kept.sha256)

"""Files that clients send: kept and measured; in one piece or in parts, now or at an address promised before."""

import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from uuid import UUID

from service.artifacts import records, tickets
from service.artifacts.decoders import PictureRefused, Starved
from service.artifacts.filing import file, spooled, storing
from service.artifacts.pictures import measure_in_child
from service.artifacts.records import Measured
from service.artifacts.serving import clean_name
from service.artifacts.storage import PartMissing, TooLarge
from service.artifacts.tickets import Upload
from service.context import Context
from service.errors import BadRequest, BodyTooLarge, Invalid, NotFound, Unavailable

LARGEST_UPLOAD = 100 * 2**20
LARGEST_IN_PARTS = 512 * 2**20
MOST_PARTS = 1_000
TICKET_SECONDS = 86_400.0
LONGEST_TYPE = 200
ENDED = "The file of this upload is whole already."

# Longer than any ticket holds.
FORGOTTEN_SECONDS = 2 * TICKET_SECONDS
FORGOTTEN_AT_A_TIME = 100
_RANDOM = re.compile(r"[A-Za-z0-9_-]{1,64}")


async def keep(context: Context, chunks: AsyncIterator[bytes], limit: int) -> Measured:
    """Store a file, measured. Raises Unavailable."""
    try:
        async with spooled(context.storage, chunks, limit) as received:
            if received.size == 0:
                raise Invalid.at("body", msg="The file is empty.", kind="missing")
            try:
                picture, _ = await measure_in_child(received.path, mask=False)
            except (Starved, OSError) as error:
                raise Unavailable("The file could not be looked at in time; try again shortly.") from error
            except PictureRefused as error:
                raise Invalid.at("body", msg=str(error), kind="image_too_large") from None
            kept = Measured(received.sha256, received.size, picture.content_type, picture.width, picture.height)
            await file(context.db, context.storage, received, kept)
    except TooLarge:
        raise BodyTooLarge(f"A file may have at most {limit:,} bytes.") from None
    await records.record_upload(context.db, kept.sha256)
    return kept


async def promise(context: Context, tenant_id: UUID, file_name: str, content_type: str) -> Upload:
    """An address for a file whose bytes are still to come, and the ticket with which to send them."""
    name = clean_name(file_name)
    upload = Upload(secrets.token_urlsafe(16), secrets.token_urlsafe(24), name, content_type[:LONGEST_TYPE])
    await tickets.begin(context.db, tenant_id, upload)
    return upload


async def open_ticket(context: Context, ticket: str) -> Upload:
    """Raises NotFound."""
    upload = None
    if _RANDOM.fullmatch(ticket):
        upload = await tickets.find_by_ticket(context.db, ticket, TICKET_SECONDS)
    if upload is None:
        raise NotFound("There is no such upload, or its time is over.")
    return upload


async def find(context: Context, upload_id: str) -> Upload | None:
    """A file that was promised, whether it came or not."""
    return await tickets.find(context.db, upload_id) if _RANDOM.fullmatch(upload_id) else None


async def receive(context: Context, ticket: str, chunks: AsyncIterator[bytes], claimed: str | None) -> Upload:
    """The bytes of a promised file. The same bytes may come again, as from a client that tries twice."""
    upload = await open_ticket(context, ticket)
    kept = await keep(context, chunks, LARGEST_UPLOAD)
    return await _finish(context, replace(upload, content_type=(claimed or upload.content_type)[:LONGEST_TYPE]), kept)


async def receive_part(context: Context, ticket: str, number: int, chunks: AsyncIterator[bytes]) -> str:
    """Returns the part's SHA-256."""
    upload = await open_ticket(context, ticket)
    if upload.sha256 is not None:
        raise BadRequest(ENDED)
    if not 1 <= number <= MOST_PARTS:
        raise Invalid.at("path", "part", msg=f"Must be 1 to {MOST_PARTS:,}.", kind="value_error")
    try:
        async with spooled(context.storage, chunks, LARGEST_UPLOAD) as received:
            with storing():
                await context.storage.keep_part(upload.id, number, received)
    except TooLarge:
        raise BodyTooLarge(f"A part may have at most {LARGEST_UPLOAD:,} bytes.") from None
    with storing():
        if (await open_ticket(context, ticket)).sha256 is not None:
            await context.storage.drop_parts(upload.id, [number])
            raise BadRequest(ENDED)
        # Looked at with this part, so that of several that come at once none is overlooked.
        if sum((await context.storage.sizes_of_parts(upload.id)).values()) > LARGEST_IN_PARTS:
            await context.storage.drop_parts(upload.id, [number])
            raise BodyTooLarge(f"All parts together may have at most {LARGEST_IN_PARTS:,} bytes.")
    return received.sha256


async def join(context: Context, ticket: str, parts: Mapping[int, str]) -> Upload:
    """Make the file of its parts, given as number and SHA-256, in the order of their numbers."""
    upload = await open_ticket(context, ticket)
    if upload.sha256 is not None:
        return upload  # It was joined before; the answer to that was lost.
    ordered = dict(sorted(parts.items()))
    try:
        chunks = context.storage.read_parts(upload.id, ordered)
        kept = await keep(context, chunks, LARGEST_IN_PARTS)
    except PartMissing as error:
        now = await open_ticket(context, ticket)
        if now.sha256 is not None:
            return now  # Another call, at the same time, joined it and dropped its parts.
        raise BadRequest(f"Part {error} did not come, or is another one.") from None
    upload = await _finish(context, upload, kept)
    with storing():
        await _drop_all_parts(context, upload.id)
    return upload


async def forget(context: Context) -> None:
    """Forget uploads that never came, and what came of their parts."""
    while ids := await tickets.that_never_came(context.db, FORGOTTEN_SECONDS, FORGOTTEN_AT_A_TIME):
        for upload_id in ids:
            await _drop_all_parts(context, upload_id)
        await tickets.forget(context.db, ids)


async def _drop_all_parts(context: Context, upload_id: str) -> None:
    await context.storage.drop_parts(upload_id, await context.storage.sizes_of_parts(upload_id))


async def _finish(context: Context, upload: Upload, kept: Measured) -> Upload:
    if not await tickets.finish(context.db, upload.id, kept.sha256, upload.content_type):
        raise BadRequest("Another file was sent to this address before.")
    return replace(upload, sha256=kept.sha256)

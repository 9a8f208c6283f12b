"""Where requests are found, here and at fal."""

from typing import Any
from urllib.parse import unquote, urlsplit

from service.front.errors import NotProxied
from service.providers.fal import app_of

PREFIX = "/fal"

# fal's hosts, their older names and the backup domains of its clients, and which part of the door answers for them.
HOSTS = {
    "queue.fal.run": "queue",
    "queue.falrun.com": "queue",
    "fal.run": "run",
    "falrun.com": "run",
    "rest.fal.ai": "rest",
    "rest.alpha.fal.ai": "rest",
    "v3.fal.media": "cdn",
    "v3b.fal.media": "cdn",
}
PORTS = {"https": 443, "http": 80}
LONGEST_TARGET = 8_192


def request_urls(public_url: str, model: str, request_id: str) -> dict[str, str]:
    """The addresses that a client follows as they stand; they name the app without the rest of the model's path."""
    own = f"{public_url}{PREFIX}/queue/{app_of(model)}/requests/{request_id}"
    return {"response_url": own, "status_url": f"{own}/status", "cancel_url": f"{own}/cancel"}


def same_app(asked: str, model: str) -> bool:
    """Whether a path names the app of a model, with or without what follows the app."""
    return app_of(asked.strip("/")) == app_of(model)


def local_target(target: str) -> dict[str, Any]:
    """Path and query of the door's own that answers for an address of fal's, as ASGI has them. Raises NotProxied."""
    if not (len(target) <= LONGEST_TARGET and target.isascii() and target.isprintable()) or "\\" in target:
        raise NotProxied
    try:
        parts = urlsplit(target)
        port = parts.port
    except ValueError:
        raise NotProxied from None
    prefix = HOSTS.get(parts.netloc.lower().removesuffix(f":{port}"))
    if prefix is None or port not in {None, PORTS.get(parts.scheme)} or parts.scheme not in PORTS:
        raise NotProxied
    path = f"{PREFIX}/{prefix}{parts.path or '/'}"
    return {"path": unquote(path), "raw_path": path.encode(), "query_string": parts.query.encode()}

"""A stand-in for the fal queue: takes a submission, answers, and posts the signed result at once.

Run as a process of its own, `python -m bench.provider`: its first line of output is its address, and it ends
when its standard input does, so that it never outlives the bench.
"""

import asyncio
import base64
import hashlib
import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from uuid import uuid4

import uvloop
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from nacl.signing import SigningKey

USER = "bench"
# As in `service/context.py`: shorter than the five seconds after which the other side closes.
KEEPALIVE_SECONDS = 4.0
TRIES = 20
OUTPUT = {"output": "Leonardo da Vinci painted it, in Florence.", "partial": False}


@dataclass
class Record:
    """What was seen of one phase's jobs, by their tags; times are of the monotonic clock, which all processes share."""

    submits: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, float] = field(default_factory=dict)
    # Answers other than 2xx to webhooks, each of which was posted again.
    turned_away: int = 0


class Provider:
    def __init__(self, http: ClientSession) -> None:
        self._http = http
        self._key = SigningKey.generate()
        self._records: dict[str, Record] = defaultdict(Record)
        self._news = asyncio.Condition()
        self._deliveries: set[asyncio.Task[None]] = set()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=32 * 2**20)
        app.router.add_get("/.well-known/jwks.json", self.show_keys)
        app.router.add_get("/record/{phase}", self.show_record)
        app.router.add_post("/{model:.+}", self.submit)
        return app

    async def submit(self, request: web.Request) -> web.Response:
        tag = (await request.json())["prompt"].rpartition("tag:")[2]
        submits = self._records[phase_of(tag)].submits
        submits[tag] = submits.get(tag, 0) + 1
        request_id = str(uuid4())
        address = f"{request.url.origin()}/{request.match_info['model']}/requests/{request_id}"
        # It begins when this handler has nothing more to do, so after the answer is written.
        delivery = asyncio.create_task(self._deliver(tag, request_id, request.query["fal_webhook"]))
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._deliveries.discard)
        return web.json_response(
            {
                "status": "IN_QUEUE",
                "request_id": request_id,
                "gateway_request_id": request_id,
                "response_url": address,
                "status_url": f"{address}/status",
                "cancel_url": f"{address}/cancel",
                "queue_position": 0,
            }
        )

    async def _deliver(self, tag: str, request_id: str, webhook_url: str) -> None:
        record = self._records[phase_of(tag)]
        body = json.dumps(
            {"request_id": request_id, "gateway_request_id": request_id, "status": "OK", "payload": OUTPUT}
        ).encode()
        for tried in range(TRIES):
            if await self._post(webhook_url, request_id, body):
                record.acknowledged.setdefault(tag, time.monotonic())
                async with self._news:
                    self._news.notify_all()
                return
            record.turned_away += 1
            await asyncio.sleep(0.1 * (tried + 1))

    async def _post(self, url: str, request_id: str, body: bytes) -> bool:
        try:
            async with self._http.post(url, data=body, headers=self._headers(request_id, body)) as response:
                await response.read()
                return 200 <= response.status < 300
        except (ClientError, TimeoutError):
            return False

    def _headers(self, request_id: str, body: bytes) -> dict[str, str]:
        timestamp = str(int(time.time()))
        lines = (request_id, USER, timestamp, hashlib.sha256(body).hexdigest())
        return {
            "content-type": "application/json",
            "x-fal-webhook-request-id": request_id,
            "x-fal-webhook-user-id": USER,
            "x-fal-webhook-timestamp": timestamp,
            "x-fal-webhook-signature": self._key.sign("\n".join(lines).encode()).signature.hex(),
        }

    async def show_keys(self, request: web.Request) -> web.Response:
        x = base64.urlsafe_b64encode(bytes(self._key.verify_key)).decode().rstrip("=")
        return web.json_response({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "bench", "use": "sig", "x": x}]})

    async def show_record(self, request: web.Request) -> web.Response:
        """With `?acknowledged=N` as soon as so many webhooks were taken."""
        record, wanted = self._records[request.match_info["phase"]], int(request.query.get("acknowledged", 0))
        async with self._news:
            await self._news.wait_for(lambda: len(record.acknowledged) >= wanted)
        return web.json_response(vars(record))


def phase_of(tag: str) -> str:
    return tag.partition("-")[0]


async def serve() -> None:
    """Until standard input ends."""
    connector = TCPConnector(limit=256, keepalive_timeout=KEEPALIVE_SECONDS)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=30)) as http:
        runner = web.AppRunner(Provider(http).application(), access_log=None, keepalive_timeout=60, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        host, port = runner.addresses[0][:2]
        print(f"http://{host}:{port}", flush=True)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
        await ended.wait()
        await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve())

"""Webhooks that must change nothing: forged, stale, foreign and replayed ones, at the addresses of real attempts.

What is validly signed here was signed by the provider for a request of somebody else's, as any of its customers can
have it: they are submitted to the sandbox by the forger, who receives their webhooks himself.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict
from nacl.signing import SigningKey

from faults.history import History, Json, Lines
from faults.load import ENDED, Load

PREFIX = "x-fal-webhook-"
# A letter is used for so long, well within the time in which its signature counts.
FRESH_SECONDS = 120.0
LETTERS = 12
OFF_SECONDS = 301


@dataclass(frozen=True)
class Letter:
    """A webhook as it is posted: where to, its four signature headers, its body."""

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        return dict(self.headers)[PREFIX + name]

    def having(self, **changed: str | None) -> "Letter":
        """The same with other headers; None leaves one out."""
        names = {PREFIX + name.replace("_", "-"): value for name, value in changed.items()}
        headers = [(name, names.get(name, value)) for name, value in self.headers]
        return Letter(self.url, tuple((name, value) for name, value in headers if value is not None), self.body)


@dataclass(frozen=True)
class Victim:
    """An attempt as the provider's journal has it: its sealed address and its request."""

    url: str
    request_id: str
    job_id: str
    attempt: int

    @classmethod
    def of(cls, line: Json) -> "Victim":
        _, _, _, _, _, job_id, attempt, *_ = line["url"].split("/")
        return cls(line["url"], line["request_id"], job_id, int(attempt))


class Forger:
    def __init__(self, sandbox_url: str, journal: Path, history: History, load: Load, seed: int) -> None:
        self._sandbox_url = sandbox_url
        self._journal = Lines(journal)
        self._history = history
        self._known, self._jobs = load.known, load.jobs
        self._chance = random.Random(f"forger {seed}")
        self._key = SigningKey.generate()
        self._fresh: list[tuple[float, Letter]] = []
        self._stale: list[Letter] = []
        self._victims: list[Victim] = []
        self._http = ClientSession(connector=TCPConnector(limit=16), timeout=ClientTimeout(total=6))
        self._receiver = web.AppRunner(self._application())
        self._own_url = ""

    async def open(self) -> None:
        await self._receiver.setup()
        site = web.TCPSite(self._receiver, "127.0.0.1", 0)
        await site.start()
        host, port = self._receiver.addresses[0][:2]
        self._own_url = f"http://{host}:{port}/"

    async def close(self) -> None:
        await self._http.close()
        await self._receiver.cleanup()

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/{kind}", self._receive)
        return application

    async def _receive(self, request: web.Request) -> web.Response:
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        letter = Letter("", tuple(pair for pair in headers if pair[0].startswith(PREFIX)), await request.read())
        if request.match_info["kind"] == "stale":
            self._stale.append(letter)
        else:
            self._fresh.append((time.monotonic(), letter))
        return web.Response()

    async def forge(self, count: int, seconds: float) -> None:
        """So many, at a steady rate."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await asyncio.sleep(began + seconds * number / count - time.monotonic())
                if number % 100 == 0:
                    await self._have_letters_signed()
                if number % 20 == 0:
                    self._meet_victims()
                group.create_task(self._post(number))

    async def _have_letters_signed(self) -> None:
        """As any customer of the provider can: by requests of his own, at addresses of his own."""
        fresh = [(at, letter) for at, letter in self._fresh if time.monotonic() - at < FRESH_SECONDS]
        self._fresh = fresh[-LETTERS * 4 :]
        stale = {"webhook": "stale", "only_bad": True}
        for kind, knobs in (("fresh", {}), ("fresh", {}), ("stale", stale)):
            body = {"word": f"forged-{self._chance.getrandbits(64):x}", "sandbox": knobs}
            try:
                async with self._http.post(
                    f"{self._sandbox_url}/sandbox/echo",
                    params={"fal_webhook": f"{self._own_url}{kind}"},
                    headers={"authorization": "Key forger:forger"},
                    json=body,
                ) as response:
                    await response.read()
            except (ClientError, TimeoutError):
                continue

    def _meet_victims(self) -> None:
        accepted = [line for line in self._journal.new() if line["what"] == "accepted"]
        self._victims += [Victim.of(line) for line in accepted if "/webhooks/fal/" in (line["url"] or "")]

    async def _post(self, number: int) -> None:
        kind = KINDS[number % len(KINDS)]
        while (made := self._make(kind, number)) is None:
            # Too early: there is no attempt yet, or no letter was signed.
            await asyncio.sleep(0.5)
            self._meet_victims()
        victim, letter = made
        status = verdict = None
        try:
            async with self._http.post(letter.url, data=letter.body, headers=_multi(letter.headers)) as response:
                status, answer = response.status, await response.read()
                verdict = json.loads(answer).get("verdict") if status == 200 else None
        except (ClientError, TimeoutError, OSError, ValueError):
            pass
        self._history.note(
            "forged",
            kind=kind,
            number=number,
            job=victim.job_id,
            attempt=victim.attempt,
            status=status,
            verdict=verdict,
            bearing=letter_id(letter),
        )

    def _make(self, kind: str, number: int) -> tuple[Victim, Letter] | None:
        if kind in {"foreign", "stale"}:
            # To an attempt that has no ID yet, a letter that bears its seal is news of it.
            victims = [each for each in self._victims if self._known.get(each.job_id) == each.attempt]
        else:
            victims = self._victims
        # Those that are live are few, and the ones that could still be harmed.
        victims = [each for each in victims if self._jobs.get(each.job_id) not in ENDED][-20:] or victims[-400:]
        if not victims or len(self._fresh) < 2 or not self._stale:
            return None
        victim = self._chance.choice(victims)
        letter = self._chance.choice(self._stale if kind == "stale" else [each for _, each in self._fresh])
        letter = Letter(victim.url, letter.headers, letter.body)
        return victim, KINDS_OF[kind](self, victim, letter, f"forged-{number}")

    def _own(self, victim: Victim, marker: str, *, off: int = 0, user: str = "sandbox") -> Letter:
        """The victim's request, told and signed by the forger."""
        told = {"request_id": victim.request_id, "gateway_request_id": victim.request_id, "status": "OK"}
        body = json.dumps({**told, "payload": {"output": marker}}).encode()
        return signed(self._key, victim.url, victim.request_id, user, int(time.time()) + off, body)

    def _about_victim(self, victim: Victim, letter: Letter, marker: str) -> Letter:
        """The signature of another letter on the victim's news."""
        return Letter(letter.url, letter.headers, self._own(victim, marker).body)

    def _bit_flipped(self, victim: Victim, letter: Letter, marker: str) -> Letter:
        place = self._chance.randrange(len(letter.body))
        body = letter.body[:place] + bytes([letter.body[place] ^ 1]) + letter.body[place + 1 :]
        return Letter(letter.url, letter.headers, body)

    def _other_address(self, victim: Victim, letter: Letter, marker: str) -> Letter:
        """The seal belongs to one attempt of one job on one model."""
        head, job, attempt, seal, model = split_address(letter.url)
        wrong = self._chance.choice(
            (
                (job, attempt, seal[::-1] if seal[::-1] != seal else f"{seal}0", model),
                (job, str(int(attempt) + 1), seal, model),
                (job[:-1] + ("0" if job[-1] == "f" else "f"), attempt, seal, model),
                (job, attempt, seal, f"{model}/other"),
            )
        )
        return Letter("/".join((head, *wrong)), letter.headers, letter.body)

    def _odd_headers(self, victim: Victim, letter: Letter, marker: str) -> Letter:
        signature = letter.header("signature")
        return self._chance.choice(
            (
                letter.having(signature=signature.upper() + "A"),
                letter.having(signature=signature[:-2]),
                letter.having(signature="0" * 128),
                letter.having(signature=None),
                letter.having(timestamp=None),
                letter.having(timestamp=f"{letter.header('timestamp')}.0"),
                letter.having(timestamp=f"-{letter.header('timestamp')}"),
                letter.having(timestamp="9" * 11),
                letter.having(user_id="somebody"),
                letter.having(request_id=victim.request_id),
                Letter(letter.url, (*letter.headers, (f"{PREFIX}request-id", victim.request_id)), letter.body),
            )
        )


Make = Callable[[Forger, Victim, Letter, str], Letter]
KINDS_OF: dict[str, Make] = {
    # Validly signed, by the provider, about another request.
    "foreign": lambda forger, victim, letter, marker: letter,
    "stale": lambda forger, victim, letter, marker: letter,
    "own key": lambda forger, victim, letter, marker: forger._own(victim, marker),
    "own key, old": lambda forger, victim, letter, marker: forger._own(victim, marker, off=-OFF_SECONDS),
    "own key, early": lambda forger, victim, letter, marker: forger._own(victim, marker, off=OFF_SECONDS),
    "own key, other user": lambda forger, victim, letter, marker: forger._own(victim, marker, user="somebody"),
    "borrowed signature": Forger._about_victim,
    "bit flipped": Forger._bit_flipped,
    "other address": Forger._other_address,
    "odd headers": Forger._odd_headers,
    "no body": lambda forger, victim, letter, marker: Letter(letter.url, letter.headers, b""),
}
KINDS = tuple(KINDS_OF)


def signed(key: SigningKey, url: str, request_id: str, user: str, timestamp: int, body: bytes) -> Letter:
    message = "\n".join((request_id, user, str(timestamp), sha256(body).hexdigest())).encode()
    values = {"request-id": request_id, "user-id": user, "timestamp": str(timestamp)}
    values["signature"] = key.sign(message).signature.hex()
    return Letter(url, tuple((PREFIX + name, value) for name, value in values.items()), body)


def letter_id(letter: Letter) -> str | None:
    """The request that a letter says it is about."""
    return next((value for name, value in letter.headers if name == f"{PREFIX}request-id"), None)


def split_address(url: str) -> tuple[str, str, str, str, str]:
    """Before the job, the job, the attempt, the seal, the model."""
    head, rest = url.split("/webhooks/fal/", 1)
    job, attempt, seal, model = rest.split("/", 3)
    return f"{head}/webhooks/fal", job, attempt, seal, model


def _multi(headers: tuple[tuple[str, str], ...]) -> Any:
    return CIMultiDict([*headers, ("content-type", "application/json")])

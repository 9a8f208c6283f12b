"""How often an address may be wrong about a key. It costs the address time, and the key nothing.

Failures alone count, and by address and key together: who guesses at a key delays himself, and neither the key, which
signs in from elsewhere as ever, nor others behind the same address. All that one address asks for is bounded too, so
that guessing costs us little. The counts are of one process, and forgotten with it.
"""

from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from time import monotonic

# Failures that an address may have with one key at once, and how soon it may have another.
AT_ONCE, AGAIN_SECONDS = 8, 6.0
# The same of all keys together.
OF_ALL_AT_ONCE, OF_ALL_AGAIN_SECONDS = 120, 0.5

MOST_REMEMBERED = 20_000


@dataclass(slots=True)
class _Allowance:
    left: float
    at: float


class Attempts:
    def __init__(self) -> None:
        self._left: dict[bytes, _Allowance] = {}

    def wait_seconds(self, address: str, key_id: str) -> float:
        """For how long this address may not try this key; zero: it may."""
        now = monotonic()
        return max(self._wait(name, *limits, now) for name, limits in _names(address, key_id))

    def failed(self, address: str, key_id: str) -> None:
        now = monotonic()
        for name, (at_once, again) in _names(address, key_id):
            allowance = self._left.get(name) or _Allowance(at_once, now)
            allowance.left = _left(allowance, at_once, again, now) - 1
            allowance.at = now
            if len(self._left) >= MOST_REMEMBERED:
                self._forget(now)
            self._left[name] = allowance

    def _wait(self, name: bytes, at_once: int, again: float, now: float) -> float:
        allowance = self._left.get(name)
        return 0.0 if allowance is None else max(0.0, (1 - _left(allowance, at_once, again, now)) * again)

    def _forget(self, now: float) -> None:
        """Those that are whole again; if that is not enough, all: somebody has very many addresses."""
        longest = AT_ONCE * AGAIN_SECONDS
        self._left = {name: each for name, each in self._left.items() if now - each.at < longest}
        if len(self._left) >= MOST_REMEMBERED // 2:
            self._left.clear()


def _left(allowance: _Allowance, at_once: int, again: float, now: float) -> float:
    return min(float(at_once), allowance.left + (now - allowance.at) / again)


def _names(address: str, key_id: str) -> tuple[tuple[bytes, tuple[int, float]], ...]:
    network = _network(address)
    return (
        (sha256(f"{network}\n{key_id}".encode("utf-8", "surrogatepass")).digest(), (AT_ONCE, AGAIN_SECONDS)),
        (network.encode(), (OF_ALL_AT_ONCE, OF_ALL_AGAIN_SECONDS)),
    )


def _network(address: str) -> str:
    """Of an IPv6 address the half that its holder does not choose."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return str(parsed)

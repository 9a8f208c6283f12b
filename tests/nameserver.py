"""A name server on the loopback: it answers for the names that it knows, and is silent about all that end so."""

import asyncio
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

A, AAAA = 1, 28
SILENT = "silent.example"
NO_SUCH_NAME = 3


@dataclass
class NameServer(asyncio.DatagramProtocol):
    names: Mapping[str, Sequence[str]]
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, sender: object) -> None:
        labels, place = [], 12
        while length := data[place]:
            labels.append(data[place + 1 : place + 1 + length].decode())
            place += 1 + length
        name, (kind, _) = ".".join(labels).lower(), struct.unpack("!HH", data[place + 1 : place + 5])
        self.asked.append(name)
        if name.endswith(SILENT):
            return
        known = self.names.get(name)
        addresses = [ipaddress.ip_address(each) for each in known or ()]
        found = [each.packed for each in addresses if kind == (A if each.version == 4 else AAAA)]
        flags = 0x8180 | (0 if known else NO_SUCH_NAME)
        head = data[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0)
        answers = [struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(each)) + each for each in found]
        self._transport.sendto(b"".join([head, data[12 : place + 5], *answers]), sender)  # type: ignore[arg-type]


@asynccontextmanager
async def answering_names(**names: Sequence[str]) -> AsyncIterator[NameServer]:
    """`a_example="127.0.0.1"` is an address of `a.example`."""
    known = {name.replace("_", "."): addresses for name, addresses in names.items()}
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(known), local_addr=("127.0.0.1", 0), family=socket.AF_INET
    )
    try:
        yield server
    finally:
        transport.close()

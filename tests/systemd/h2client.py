"""One HTTP/2 connection over plaintext, with as much of RFC 9113 as it takes to ask one question after another
and to leave when the server says GOAWAY. Of HPACK it knows what it sends, and the status 200.
"""

import asyncio
import struct

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
STATUS_200 = 0x88


class Unprocessed(Exception):
    """The server says that it never looked at the request: to be sent again elsewhere (section 6.8)."""


class Connection:
    @classmethod
    async def open(cls, port):
        self = cls()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
        self.next, self.leaving, self.waiting, self.bodies = 1, False, {}, {}
        self.task = asyncio.ensure_future(self.listen())
        return self

    async def post(self, path, body):
        """The body of the answer, which has the status 200."""
        stream, self.next = self.next, self.next + 2
        answer = self.waiting[stream] = asyncio.get_running_loop().create_future()
        self.bodies[stream] = b""
        head = b"\x83\x86" + literal(b"\x04", path) + literal(b"\x01", "weir") + literal(b"\x0f\x10", "application/json")
        self.writer.write(frame(HEADERS, END_HEADERS, stream, head) + frame(DATA, END_STREAM, stream, body))
        return await answer

    async def listen(self):
        try:
            while True:
                await self.one()
        except asyncio.IncompleteReadError:
            self.fail(ConnectionResetError("HTTP/2: closed before the answer was whole"))
        except OSError as error:
            self.fail(error)
        finally:
            self.leaving = True
            self.writer.close()

    async def one(self):
        length, kind, flags, stream = (
            struct.unpack(">I", b"\0" + await self.reader.readexactly(3))[0],
            *struct.unpack(">BBI", await self.reader.readexactly(6)),
        )
        payload = await self.reader.readexactly(length)
        if kind == SETTINGS and not flags & ACK:
            self.writer.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.writer.write(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self.leaving = True
            last = struct.unpack(">I", payload[:4])[0]
            for number in [number for number in self.waiting if number > last]:
                self.waiting.pop(number).set_exception(Unprocessed())
        elif kind == RESET and stream in self.waiting:
            code = struct.unpack(">I", payload)[0]
            REFUSED_STREAM = 7
            self.waiting.pop(stream).set_exception(
                Unprocessed() if code == REFUSED_STREAM else ConnectionResetError(f"HTTP/2: RST_STREAM {code}")
            )
        elif kind == HEADERS and stream in self.waiting and payload[0] != STATUS_200:
            self.waiting.pop(stream).set_exception(NotOk(payload))
        elif kind == DATA:
            self.bodies[stream] += payload
            if payload:
                self.writer.write(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload))))
        if kind in (HEADERS, DATA) and flags & END_STREAM and stream in self.waiting:
            self.waiting.pop(stream).set_result(self.bodies.pop(stream))

    def fail(self, error):
        for answer in self.waiting.values():
            answer.set_exception(error)
        self.waiting = {}

    def close(self):
        self.task.cancel()


class NotOk(Exception):
    """An answer whose status is not 200."""

    status = 599


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    return name + bytes([len(value)]) + value.encode()

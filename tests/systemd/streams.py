"""What stays open while weir changes: streams of numbered events, and a WebSocket."""

import asyncio
import base64
import json
import os

from http1 import DEADLINE, Wrong, data_lines, read_head, request


class Stream:
    """One stream of numbered events, read to its end."""

    def __init__(self, traffic):
        self.traffic, self.events, self.whole = traffic, 0, False
        self.begun = asyncio.get_running_loop().create_future()
        self.task = asyncio.ensure_future(self.run())

    async def run(self):
        try:
            await self.read()
            self.whole = True
        except Exception as error:  # counted by kind
            self.traffic.note(error, "stream")
            if not self.begun.done():
                self.begun.set_exception(error)

    async def read(self):
        nonce = f"s{next(self.traffic.nonces)}"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.traffic.port)
        try:
            writer.write(request(nonce, stream=True))
            await read_head(reader)
            ended = False
            async for data in data_lines(reader):
                if data == "[DONE]":
                    if not ended:
                        raise Wrong("[DONE] before the last event")
                    return
                said = json.loads(data)["choices"][0]["delta"]["content"]
                ended = said == f"{nonce} end {self.events}"
                if not ended and said != f"{nonce} {self.events}":
                    raise Wrong(f"{said!r} instead of event {self.events} of {nonce}")
                self.events += 1
                if not self.begun.done():
                    self.begun.set_result(None)
            raise ConnectionResetError(f"the stream ended without [DONE] after {self.events} events")
        finally:
            writer.close()


class Echo:
    """One WebSocket whose frames must come back as they went."""

    @classmethod
    async def open(cls, traffic):
        self = cls()
        self.frames, self.closing = 0, False
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", traffic.port)
        key = base64.b64encode(os.urandom(16)).decode()
        self.writer.write(
            f"GET /v1/realtime?model=m HTTP/1.1\r\nhost: weir\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n".encode()
        )
        await asyncio.wait_for(read_head(self.reader, 101), DEADLINE)
        self.task = asyncio.ensure_future(self.run())
        return self

    async def run(self):
        while not self.closing:
            text = f"frame {self.frames}".encode()
            mask = os.urandom(4)
            masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(text))
            self.writer.write(bytes([0x81, 0x80 | len(text)]) + mask + masked)
            back = await asyncio.wait_for(self.reader.readexactly(2 + len(text)), DEADLINE)
            if back[2:] != text:
                raise Wrong(f"{back!r} instead of {text!r}")
            self.frames += 1
            await asyncio.sleep(0.02)

    async def close(self):
        self.closing = True
        result = (await asyncio.gather(self.task, return_exceptions=True))[0]
        self.writer.close()
        return self.frames, result

#!/usr/bin/env python3
"""A model server for the checks under a real systemd: it answers, streams numbered events until it is told
to finish, and echoes over a WebSocket. One process, no state but the open streams.

  model.py PORT
    POST …/chat/completions   {"stream": true}: an event every PACE s, its content "NONCE N"; else one answer
                              with the content NONCE. NONCE is the request's only message.
    POST /finish              ends all streams, each with "NONCE end N" and [DONE]
    GET  …/realtime           101, then frames come back as they went
"""

import asyncio
import base64
import hashlib
import json
import sys

PACE = 0.2
# RFC 6455, section 1.3.
WEBSOCKET_KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Model:
    def __init__(self):
        self.finish = asyncio.Event()

    async def serve(self, reader, writer):
        try:
            while await self.one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def one(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")
        path = line.split()[1]
        headers = {k.strip().lower(): v.strip() for k, _, v in (f.partition(":") for f in fields if f)}
        if headers.get("upgrade", "").lower() == "websocket":
            return await self.echo(headers, reader, writer)
        body = await read_body(headers, reader)
        if path == "/finish":
            self.finish.set()
            self.finish = asyncio.Event()
            return await answer(writer, b"{}")
        asked = json.loads(body or b"{}")
        nonce = asked.get("messages", [{}])[-1].get("content", "")
        if asked.get("stream"):
            return await self.stream(nonce, writer)
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        message = {"role": "assistant", "content": nonce}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return await answer(writer, json.dumps({"id": "a", "model": "m", "choices": [choice], "usage": usage}).encode())

    async def stream(self, nonce, writer):
        finish = self.finish
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        number = 0
        while not finish.is_set():
            await event(writer, f"{nonce} {number}")
            number += 1
            try:
                await asyncio.wait_for(finish.wait(), PACE)
            except TimeoutError:
                pass
        await event(writer, f"{nonce} end {number}", "stop")
        await chunk(writer, b"data: [DONE]\n\n")
        await chunk(writer, b"")
        return True

    async def echo(self, headers, reader, writer):
        digest = hashlib.sha1((headers["sec-websocket-key"] + WEBSOCKET_KEY).encode()).digest()
        accept = base64.b64encode(digest).decode()
        writer.write(
            f"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n".encode()
        )
        while True:
            kind, length = await reader.readexactly(2)
            mask = await reader.readexactly(4)
            text = await reader.readexactly(length & 0x7F)
            text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(text))
            writer.write(bytes([kind, len(text)]) + text)
            await writer.drain()


async def read_body(headers, reader):
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


async def answer(writer, body):
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    await writer.drain()
    return True


async def event(writer, content, finish_reason=None):
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    data = json.dumps({"id": "s", "object": "chat.completion.chunk", "model": "m", "choices": [choice]})
    await chunk(writer, f"data: {data}\n\n".encode())


async def chunk(writer, data):
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await writer.drain()


async def main():
    server = await asyncio.start_server(Model().serve, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main())

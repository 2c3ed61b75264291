"""HTTP/1.1 as a client speaks it that believes nothing: what isn't the answer to its question is an error."""

import asyncio
import json

# Seconds that one exchange may take.
DEADLINE = 20.0
CHAT = "/v1/chat/completions"


class Wrong(Exception):
    """An answer that is not the one to the question."""


class Status(Exception):
    def __init__(self, status, head):
        super().__init__(f"{status} {head.get('x-weir-error', '')}")
        self.status = status


def content(body):
    return json.loads(body)["choices"][0]["message"]["content"]


def request(nonce, stream=False, connection="keep-alive"):
    body = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": nonce}]}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: weir\r\ncontent-type: application/json\r\nconnection: {connection}\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body)


async def read_head(reader, wanted=200):
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError(f"closed after {len(error.partial)} bytes of the answer's head") from None
    line, *fields = head.split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (field.partition(":") for field in fields if field)}
    status = int(line.split()[1])
    if status != wanted:
        raise Status(status, headers)
    return headers


async def read_whole(headers, reader):
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return b"".join([chunk async for chunk in chunks(reader)])


async def chunks(reader):
    while size := int(await reader.readline() or b"x", 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)


async def data_lines(reader):
    rest = b""
    async for chunk in chunks(reader):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield line[6:].decode().strip()

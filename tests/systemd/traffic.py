"""Clients of weir, from a thread of their own in the container's network: each answer and each event of a
stream is checked, and what goes wrong is counted by its kind. Nothing is tried a second time.
"""

import asyncio
import collections
import ctypes
import itertools
import json
import random
import socket
import ssl
import threading
import time

import h2client
from http1 import CHAT, DEADLINE, Status, Wrong, content, read_head, read_whole, request
from machine import wait_until
from streams import Echo, Stream

CLONE_NEWNET = 0x40000000
# Whose certificate it is doesn't matter here.
TLS = ssl.create_default_context()
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE


class Traffic:
    """All clients of one machine. `pid` is a process in its network namespace."""

    def __init__(self, pid, port=80, tls_port=443):
        self.port, self.tls_port = port, tls_port
        self.loop = asyncio.new_event_loop()
        entered = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(pid, entered), daemon=True)
        self.thread.start()
        assert entered.wait(DEADLINE), "the network of the container could not be entered"
        self.nonces = itertools.count()
        self.workers = []
        self.streams = []
        self.socket = None
        self.forget()

    def forget(self):
        """Begins to count anew."""
        self.done = collections.Counter()
        self.failed = collections.Counter()
        self.examples = []
        # When new connections were begun and answered, for `served_again`.
        self.fresh = []

    def run(self, pid, entered):
        with open(f"/proc/{pid}/ns/net") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        asyncio.set_event_loop(self.loop)
        entered.set()
        self.loop.run_forever()

    def call(self, coroutine, seconds=DEADLINE * 3):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(seconds)

    # --- what the checks say

    def close(self):
        def end():
            for task in asyncio.all_tasks():
                task.cancel()
            self.loop.call_later(0.1, self.loop.stop)

        self.loop.call_soon_threadsafe(end)
        self.thread.join(DEADLINE)

    def look_on(self, answers=300):
        """Returns when so many further requests have had their answer, or have failed."""
        seen = lambda: sum(self.done.values()) + sum(self.failed.values())  # noqa: E731
        until = seen() + answers
        wait_until(f"{answers} further answers", lambda: seen() >= until, DEADLINE)

    def start(self, fresh=4, pool=4, tls=2, h2=2):
        """Clients that ask all the time: over a new connection each, over connections kept, over TLS, over
        HTTP/2."""

        async def begin():
            work = [self.always_fresh] * fresh + [self.always_kept] * pool
            work += [self.always_tls] * tls + [self.always_h2] * h2
            self.workers = [asyncio.ensure_future(each()) for each in work]

        self.stopping = False
        self.call(begin())

    def stop(self):
        """Lets them finish what they have begun."""
        self.stopping = True

        async def end():
            await asyncio.gather(*self.workers)
            self.workers = []

        self.call(end())

    def open_streams(self, count):
        """Streams that go on until `finish_streams`; returns when each has had its first event."""

        async def begin():
            new = [Stream(self) for _ in range(count)]
            self.streams += new
            await asyncio.gather(*(asyncio.wait_for(asyncio.shield(stream.begun), DEADLINE) for stream in new))

        self.call(begin())

    def events(self):
        return sum(stream.events for stream in self.streams)

    def finish_streams(self, model_port):
        """Lets the model finish them, and counts those that came whole and those that broke."""

        async def end():
            reader, writer = await asyncio.open_connection("127.0.0.1", model_port)
            writer.write(b"POST /finish HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            writer.close()
            await asyncio.wait([stream.task for stream in self.streams], timeout=DEADLINE)

        if self.streams:
            self.call(end())
        whole = sum(stream.whole for stream in self.streams)
        events, broken = self.events(), len(self.streams) - whole
        for stream in self.streams:
            stream.task.cancel()
        self.streams = []
        return whole, broken, events

    def open_socket(self):
        """One WebSocket with a frame each 20 ms, until `close_socket`."""
        self.socket = self.call(Echo.open(self))

    def close_socket(self):
        """Frames that came back, and what went wrong, if anything did."""
        return self.call(self.socket.close())

    def ask_once(self):
        """One request over a new connection: None, or what went wrong."""
        try:
            self.call(asyncio.wait_for(self.ask_fresh(), DEADLINE / 4))
            return None
        except Exception as error:  # each kind is told to the reader
            return f"{type(error).__name__}: {error}"

    def get(self, path, port=None):
        """(headers, body) of an answer on a new connection; it must be a 200."""

        async def ask():
            reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nhost: weir\r\nconnection: close\r\n\r\n".encode())
                headers = await read_head(reader)
                return headers, await read_whole(headers, reader)
            finally:
                writer.close()

        return self.call(asyncio.wait_for(ask(), DEADLINE))

    def resume(self, session=None):
        """A request over TLS: whether it resumed that session, and the session that the next may resume."""

        async def ask():
            # Blocks the thread of the clients for some milliseconds; asyncio's TLS knows no sessions.
            plain = socket.create_connection(("127.0.0.1", self.tls_port), DEADLINE)
            with TLS.wrap_socket(plain, session=session) as stream:
                stream.sendall(request("n", connection="close"))
                while stream.recv(65536):
                    pass
                return stream.session_reused, stream.session

        return self.call(ask())

    def figures(self):
        done = " ".join(f"{kind}={self.done[kind]}" for kind in sorted(self.done)) or "requests=0"
        kinds = ["refused", "reset", "timeout", "wrong", "5xx"]
        failed = " ".join(f"{kind}={self.failed[kind]}" for kind in kinds)
        return f"{done}  {failed}" + (f"  such as: {'; '.join(self.examples)}" if self.examples else "")

    def served_again(self, since):
        """Seconds from then to the end of the first good answer on a connection that was opened after."""
        after = [end for begin, end in self.fresh if begin >= since]
        return min(after) - since if after else None

    # --- clients

    def note(self, error, client):
        kind = (
            "refused" if isinstance(error, ConnectionRefusedError)
            else "timeout" if isinstance(error, TimeoutError)
            else "wrong" if isinstance(error, (Wrong, ValueError, KeyError))
            else "5xx" if isinstance(error, (Status, h2client.NotOk)) and error.status >= 500
            else "reset"
        )  # fmt: skip
        self.failed[kind] += 1
        if len(self.examples) < 3:
            self.examples.append(f"{client}: {type(error).__name__} {error}")

    async def repeat(self, kind, ask):
        while not self.stopping:
            begin = time.monotonic()
            try:
                await asyncio.wait_for(ask(), DEADLINE)
                self.done[kind] += 1
                if kind == "fresh":
                    self.fresh.append((begin, time.monotonic()))
            except Exception as error:  # counted by kind
                self.note(error, kind)
                await asyncio.sleep(0.005)

    async def always_fresh(self):
        await self.repeat("fresh", self.ask_fresh)

    async def ask_fresh(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await self.ask(reader, writer, "close")
        finally:
            writer.close()

    async def always_tls(self):
        async def ask():
            reader, writer = await asyncio.open_connection("127.0.0.1", self.tls_port, ssl=TLS)
            try:
                await self.ask(reader, writer, "close")
            finally:
                writer.transport.abort()

        await self.repeat("tls", ask)

    async def always_kept(self):
        kept = []

        async def ask():
            # A connection that was closed while nothing was asked is no failure.
            if kept and kept[0].at_eof():
                kept.pop(1).close()
                kept.clear()
            if not kept:
                kept[:] = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = kept
            kept.clear()
            try:
                goes_on = await self.ask(reader, writer, "keep-alive")
            except BaseException:
                writer.close()
                raise
            if goes_on:
                kept[:] = reader, writer
                await asyncio.sleep(random.uniform(0, 0.03))
            else:
                writer.close()

        await self.repeat("kept", ask)
        for writer in kept[1:]:
            writer.close()

    async def always_h2(self):
        kept = []

        async def ask():
            if kept and kept[0].leaving:
                kept.pop()
            if not kept:
                kept.append(await h2client.Connection.open(self.port))
            nonce = f"n{next(self.nonces)}"
            try:
                body = await kept[0].post(
                    CHAT, json.dumps({"model": "m", "messages": [{"role": "user", "content": nonce}]}).encode()
                )
            except h2client.Unprocessed:
                kept.clear()
                self.done["h2_sent_again"] += 1
                return
            except BaseException:
                kept.pop().close()
                raise
            if content(body) != nonce:
                raise Wrong(f"{body!r} instead of {nonce!r}")
            await asyncio.sleep(random.uniform(0, 0.03))

        await self.repeat("h2", ask)
        for connection in kept:
            connection.close()

    async def ask(self, reader, writer, connection):
        nonce = f"n{next(self.nonces)}"
        writer.write(request(nonce, connection=connection))
        headers = await read_head(reader)
        said = content(await read_whole(headers, reader))
        if said != nonce:
            raise Wrong(f"{said!r} instead of {nonce!r}")
        return headers.get("connection", "").lower() != "close"

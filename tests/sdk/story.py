"""SDKs for Python against weir, in front of providers of every dialect; the one argument is a file that says where."""

import json
import sys
import time
import traceback
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from clients import CLIENTS, SECONDS, status_of

TOLD = json.load(open(sys.argv[1]))
WEIR, PROVIDERS = TOLD["weir"], TOLD["providers"]
USED = (12, 4)
PARIS, ROME = ("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})
STATUSES = [400, 401, 403, 404, 429, 500, 529]
# Whose requests pass as they are.
SAME = {
    **{name: {"openai", "llamacpp", "azure"} for name in ("chat", "langchain")},
    "responses": {"openai", "azure"},
    **{"messages": {"anthropic"}, "gemini": {"gemini"}, "ollama": {"ollama"}},
}


def same(got, wanted):
    assert got == wanted, f"{got!r} instead of {wanted!r}"


def text(client, dialect, streamed):
    seen = client.ask(f"{dialect}-text", client.body("text"), streamed)
    same((seen.text, seen.calls, seen.usage), ("Hello there!", [], USED))


def tools(client, dialect, streamed):
    body = client.body("tools")
    seen = client.ask(f"{dialect}-tools", body, streamed)
    same((seen.calls, seen.usage), ([PARIS], USED))
    if streamed:
        return
    told = client.ask(f"{dialect}-tools", client.returned(body, seen))
    same((told.text, told.calls, told.usage), ("It is 18 degrees in Paris.", [], USED))


def parallel_tools(client, dialect, streamed):
    seen = client.ask(f"{dialect}-parallel_tools", client.body("parallel_tools"), streamed)
    same((seen.calls, seen.usage), ([PARIS, ROME], USED))


def reasoning(client, dialect, streamed):
    seen = client.ask(f"{dialect}-reasoning", client.body("reasoning"), streamed)
    # Azure's chat API keeps thoughts to itself.
    thoughts = "" if dialect == "azure" else "Simple sum."
    same((seen.text, seen.thoughts, seen.usage), ("4", thoughts, (12, 5)))


def schema(client, dialect, _):
    seen = client.ask(f"{dialect}-schema", client.body("schema"))
    same((json.loads(seen.text), seen.usage), ({"name": "Ada", "age": 36}, USED))


def system(client, dialect, _):
    seen = client.ask(f"{dialect}-system", client.body("system"))
    same((seen.text, seen.usage), ("Hello there!", USED))


def image(client, dialect, _):
    seen = client.ask(f"{dialect}-image", client.body("image"))
    assert seen.text, seen
    same(seen.usage, USED)


def stop(client, dialect, _):
    seen = client.ask(f"{dialect}-stop", client.body("stop"))
    assert seen.text.rstrip() in ("Hello there!", "1, 2, 3,"), seen
    same(seen.usage, USED)


def error(client, dialect, status):
    try:
        client.ask(f"{dialect}-error-{status}", client.body("text"))
    except Exception as error:
        wanted = client.error(status)
        assert isinstance(error, wanted), f"{type(error).__name__} {error} instead of {wanted.__name__}"
        # Only Anthropic's API has a status for overload.
        known = status != 529 or client.name == "messages" or dialect in SAME[client.name]
        same(status_of(error), status if known else 503)
        assert f"{status} is what it comes to." in str(error), error
        return
    raise AssertionError("it was answered")


def busy(client, dialect, _):
    patient = type(client)(WEIR, TOLD["golden"], retries=1)
    began = time.monotonic()
    seen = patient.ask(f"{dialect}-busy-{client.name}", client.body("text"))
    same(seen.text, "Hello there!")
    # By themselves they wait half a second; only Google's is told to wait as long.
    assert time.monotonic() - began > 0.9, "the SDK didn't wait as Retry-After has it"


def cancel(client, dialect, _):
    stream = client.stream(f"{dialect}-endless-{client.name}", client.body("text"))
    assert any(client.says(event) for event in stream)
    client.leave(stream)
    with urllib.request.urlopen(f"{PROVIDERS[dialect]}/left/{client.name}", timeout=SECONDS) as answer:
        same(answer.status, 200)


def steps(client, dialect):
    if client.name == "responses" and dialect in SAME["responses"]:
        # The golden answers are those of the chat API.
        yield from ((error, status) for status in STATUSES)
        return
    story = [text, tools, parallel_tools, reasoning]
    yield from ((act, streamed) for act in story for streamed in (False, True))
    yield from ((act, None) for act in (schema, system, image, stop, cancel))
    yield from ((error, status) for status in STATUSES)
    if client.retries:
        yield busy, None


def pair(client, dialect):
    wrong, count = [], 0
    for act, how in steps(client, dialect):
        if act.__name__ in client.lacks:
            continue
        count += 1
        try:
            act(client, dialect, how)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{where.filename.rsplit('/', 1)[-1]}:{where.lineno}"
            wrong.append(f"{client.name} x {dialect}, {act.__name__} {how}: {type(error).__name__} {str(error)[:300]} ({place})")
    return wrong, count


def main():
    clients = [make(WEIR, TOLD["golden"]) for make in CLIENTS]
    pairs = [(client, dialect) for client in clients for dialect in PROVIDERS]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda of: pair(*of), pairs))
    wrong = [line for lines, _ in results for line in lines]
    print(f"{sum(count for _, count in results)} steps of {len(pairs)} pairs, {len(wrong)} wrong")
    if wrong:
        sys.exit("\n".join(wrong))
    print("all is well")


main()

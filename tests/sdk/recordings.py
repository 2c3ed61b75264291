"""Recorded answers of real providers: what the provider's own SDK reads from the original is what each client's
SDK reads through weir. The one argument is a file that says where all is."""

import json
import sys
import traceback
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import boto3
import botocore.config
import cohere

from clients import CLIENTS, SECONDS, Chat, Client, Gemini, Messages, Ollama, Seen, arguments

TOLD = json.load(open(sys.argv[1]))
WEIR, PROVIDERS, GOLDEN = TOLD["weir"], TOLD["providers"], TOLD["golden"]
# Streams of several answers, which LangChain makes one.
MIXED = {"openai/openai-chat-stream-13"}
# A stream for someone who didn't ask for increments, as weir always does.
UNASKED = {"dashscope/dashscope-generation-stream-05"}
HELLO = [{"role": "user", "content": "Say hello."}]


class Bedrock:
    """`boto3`, which is Bedrock's SDK."""

    def __init__(self, base):
        self.sdk = boto3.client(
            "bedrock-runtime",
            endpoint_url=base,
            region_name="us-east-1",
            aws_access_key_id="AKIAEXAMPLE",
            aws_secret_access_key="secret",
            config=botocore.config.Config(retries={"total_max_attempts": 1}, read_timeout=SECONDS),
        )

    def ask(self, model, _, streamed):
        asked = {"modelId": model, "messages": [{"role": "user", "content": [{"text": "Say hello."}]}]}
        seen, calls = Seen(), {}
        if not streamed:
            answer = self.sdk.converse(**asked)
            for block in answer["output"]["message"]["content"]:
                seen.text += block.get("text", "")
                thoughts = block.get("reasoningContent", {}).get("reasoningText", {})
                seen.thoughts += thoughts.get("text", "")
                if "toolUse" in block:
                    seen.calls.append((block["toolUse"]["name"], block["toolUse"]["input"]))
            seen.usage = self.usage(answer["usage"])
            return seen
        for event in self.sdk.converse_stream(**asked)["stream"]:
            if "contentBlockStart" in event:
                start = event["contentBlockStart"]
                if "toolUse" in start["start"]:
                    calls[start["contentBlockIndex"]] = [start["start"]["toolUse"]["name"], ""]
            if "contentBlockDelta" in event:
                delta = event["contentBlockDelta"]["delta"]
                seen.text += delta.get("text", "")
                seen.thoughts += delta.get("reasoningContent", {}).get("text", "")
                if "toolUse" in delta:
                    calls[event["contentBlockDelta"]["contentBlockIndex"]][1] += delta["toolUse"]["input"]
            if "metadata" in event:
                seen.usage = self.usage(event["metadata"]["usage"])
        seen.calls = [(name, arguments(text)) for name, text in calls.values()]
        return seen

    @staticmethod
    def usage(usage):
        cached = usage.get("cacheReadInputTokens", 0) + usage.get("cacheWriteInputTokens", 0)
        return usage["inputTokens"] + cached, usage["outputTokens"]


class Cohere:
    def __init__(self, base):
        self.sdk = cohere.ClientV2(api_key="me", base_url=base, timeout=SECONDS)

    def ask(self, model, _, streamed):
        seen, calls = Seen(), {}
        if not streamed:
            answer = self.sdk.chat(model=model, messages=HELLO)
            for block in answer.message.content or []:
                seen.text += getattr(block, "text", "") or ""
                seen.thoughts += getattr(block, "thinking", "") or ""
            seen.thoughts += answer.message.tool_plan or ""
            calls = answer.message.tool_calls or []
            seen.calls = [(it.function.name, arguments(it.function.arguments)) for it in calls]
            seen.usage = self.usage(answer.usage)
            return seen
        for event in self.sdk.chat_stream(model=model, messages=HELLO):
            if event.type == "content-delta":
                content = event.delta.message.content
                seen.text += content.text or ""
                seen.thoughts += getattr(content, "thinking", None) or ""
            if event.type == "tool-plan-delta":
                seen.thoughts += event.delta.message.tool_plan or ""
            if event.type == "tool-call-start":
                call = event.delta.message.tool_calls.function
                calls[event.index] = [call.name, call.arguments or ""]
            if event.type == "tool-call-delta":
                calls[event.index][1] += event.delta.message.tool_calls.function.arguments or ""
            if event.type == "message-end":
                seen.usage = self.usage(event.delta.usage)
        seen.calls = [(name, arguments(text)) for name, text in calls.values()]
        return seen

    @staticmethod
    def usage(usage):
        return usage and (int(usage.tokens.input_tokens), int(usage.tokens.output_tokens))


class DashScope:
    """By hand: the SDK for DashScope keeps its address for the whole process."""

    def __init__(self, base):
        self.base = base

    def ask(self, model, _, streamed):
        headers = {"content-type": "application/json"} | ({"x-dashscope-sse": "enable"} if streamed else {})
        body = json.dumps({"model": model, "input": {"messages": HELLO}}).encode()
        path = "/api/v1/services/aigc/text-generation/generation"
        asked = urllib.request.Request(self.base + path, body, headers)
        with urllib.request.urlopen(asked, timeout=SECONDS) as answer:
            told = answer.read().decode()
        if not streamed:
            return self.read([json.loads(told)])
        data = [line[5:] for line in told.splitlines() if line.startswith("data:")]
        return self.read([json.loads(it) for it in data])

    def read(self, events):
        """Events say what is new, or all so far."""
        seen, calls = Seen(), {}
        for event in events:
            output, used = event.get("output", {}), event.get("usage") or {}
            message = (output.get("choices") or [{}])[0].get("message", {})
            text = message.get("content") or output.get("text") or ""
            if isinstance(text, list):
                text = "".join(it.get("text", "") for it in text)
            seen.text = self.more(seen.text, text)
            seen.thoughts = self.more(seen.thoughts, message.get("reasoning_content") or "")
            for call in message.get("tool_calls") or []:
                known = calls.setdefault(call.get("index", len(calls)), ["", ""])
                known[0] = known[0] or call["function"].get("name") or ""
                known[1] = self.more(known[1], call["function"].get("arguments") or "")
            if used:
                seen.usage = (used["input_tokens"], used["output_tokens"])
        seen.calls = [(name, arguments(text)) for name, text in calls.values()]
        return seen

    @staticmethod
    def more(before, now):
        return now if before and now.startswith(before) else before + now


def original(sdk):
    """The provider's own SDK, which asks the provider itself."""
    base = PROVIDERS["openai" if sdk == "chat" else {"messages": "anthropic"}.get(sdk, sdk)]
    if sdk in ("bedrock", "cohere", "dashscope"):
        return {"bedrock": Bedrock, "cohere": Cohere, "dashscope": DashScope}[sdk](base)
    return {"chat": Chat, "messages": Messages, "gemini": Gemini, "ollama": Ollama}[sdk](base, GOLDEN)


def differences(case, told, got, client):
    # Who has no word for it is refused in text.
    has_refusals = client.name in ("chat", "responses")
    as_it_came = client.name == "langchain" and case["dialect"] == "openai"
    text = told.text if has_refusals or as_it_came else told.text + told.refusal
    if client.name != "langchain" or case["id"] not in MIXED:
        if got.text.rstrip() != text.rstrip():
            yield f"text {got.text!r} instead of {text!r}"
        if has_refusals and got.refusal != told.refusal:
            yield f"refusal {got.refusal!r} instead of {told.refusal!r}"
    if got.calls != told.calls:
        yield f"calls {got.calls!r} instead of {told.calls!r}"
    if client.name != "langchain" and got.thoughts.strip() != told.thoughts.strip():
        yield f"thoughts {got.thoughts!r} instead of {told.thoughts!r}"
    # LangChain adds up what servers that speak OpenAI's dialect say again and again.
    # Some APIs must say something where nothing was reported.
    if not as_it_came and (got.usage or (0, 0)) != (told.usage or (0, 0)):
        yield f"usage {got.usage} instead of {told.usage}"


def failure(act):
    try:
        act()
    except Exception as error:
        return error
    return None


def check(case, originals, clients):
    wrong, count = [], 0
    model, streamed = case["model"], case["streamed"]
    own = originals[case["sdk"]]
    body = {} if not isinstance(own, Client) else own.body("text")
    if case["status"] != 200:
        refused = failure(lambda: own.ask(model, body, streamed))
        assert refused is not None, f"{case['id']}: the provider's SDK takes it for an answer"
    else:
        try:
            told = own.ask(model, body, streamed)
        except Exception as error:
            return [f"{case['id']} read by its own: {error!r}"], 0
    for client in clients:
        count += 1
        name = f"{case['id']} read by {client.name}"
        if client.name == "responses" and case["dialect"] == "openai":
            provider = "llamacpp"
        else:
            provider = case["dialect"]
        ask = lambda: client.ask(f"{provider}-{model}", client.body("text"), streamed)
        try:
            if case["status"] != 200:
                error = failure(ask)
                wanted = client.error(case["status"])
                if not isinstance(error, wanted):
                    wrong.append(f"{name}: {error!r} instead of {wanted.__name__}")
                continue
            wrong += [f"{name}: {line}" for line in differences(case, told, ask(), client)]
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{where.filename.rsplit('/', 1)[-1]}:{where.lineno}"
            wrong.append(f"{name}: {type(error).__name__} {str(error)[:300]} ({place})")
    return wrong, count


def main():
    clients = [make(WEIR, GOLDEN) for make in CLIENTS]
    originals = {sdk: original(sdk) for sdk in {case["sdk"] for case in TOLD["cases"]}}
    cases = [case for case in TOLD["cases"] if case["id"] not in UNASKED]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda case: check(case, originals, clients), cases))
    wrong = [line for lines, _ in results for line in lines]
    print(f"{len(cases)} recordings, {sum(count for _, count in results)} readings, {len(wrong)} wrong")
    if wrong:
        sys.exit("\n".join(wrong))
    print("all is well")


main()

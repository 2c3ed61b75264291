"""Official SDKs as clients of one kind: what is asked comes from golden requests, what is read is a `Seen`."""

import json
import pathlib
from dataclasses import dataclass, field

import anthropic
import google.genai
import langchain_openai
import ollama
import openai
from google.genai import errors as google_errors
from google.genai import types as google_types

RESULT = "18 degrees"
SECONDS = 20


@dataclass
class Seen:
    """What a program reads out of an answer with its SDK."""

    text: str = ""
    thoughts: str = ""
    # Where its API has another word for it than text.
    refusal: str = ""
    # Names and arguments, in order.
    calls: list = field(default_factory=list)
    # Tokens of the prompt and of the answer; None where the SDK has none.
    usage: tuple | None = None
    stop: str | None = None
    # What goes back into the next request.
    turn: object = None


def arguments(text):
    return json.loads(text) if text else {}


class Client:
    """One SDK. `name` is what it calls itself in names of models, `golden` the folder of its requests."""

    name = golden = ""
    # Features of the story that its API doesn't have.
    lacks = ()
    retries = True

    def __init__(self, base, folder, retries=0):
        self.folder = pathlib.Path(folder) / self.golden
        self.open(base, retries)

    def body(self, feature):
        body = json.loads((self.folder / f"{feature}.json").read_text())
        for key in ("model", "stream", "stream_options"):
            body.pop(key, None)
        return body

    def ask(self, model, body, streamed=False):
        return self.fold(self.stream(model, body)) if streamed else self.whole(model, body)


class Chat(Client):
    name = golden = "chat"

    def open(self, base, retries):
        self.sdk = openai.OpenAI(base_url=f"{base}/v1", api_key="sk-me", max_retries=retries, timeout=SECONDS)

    def whole(self, model, body):
        answer = self.sdk.chat.completions.create(model=model, **body)
        message = answer.choices[0].message
        calls = [(it.function.name, arguments(it.function.arguments)) for it in message.tool_calls or []]
        return Seen(
            text=message.content or "",
            refusal=message.refusal or "",
            thoughts=getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or "",
            calls=calls,
            usage=self.usage(answer.usage),
            stop=answer.choices[0].finish_reason,
            turn=message,
        )

    def stream(self, model, body):
        body = dict(body, stream_options={"include_usage": True})
        return self.sdk.chat.completions.create(model=model, stream=True, **body)

    def fold(self, stream):
        seen, calls = Seen(), {}
        for event in stream:
            used = event.usage or self.groq(event)
            if used:
                seen.usage = self.usage(used)
            for choice in event.choices:
                if choice.index != 0:
                    continue
                seen.stop = choice.finish_reason or seen.stop
                delta = choice.delta
                if delta is None:
                    continue
                seen.text += delta.content or ""
                seen.refusal += delta.refusal or ""
                thoughts = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
                seen.thoughts += thoughts or ""
                for call in delta.tool_calls or []:
                    known = calls.setdefault(call.index, ["", ""])
                    known[0] += call.function.name or ""
                    known[1] += call.function.arguments or ""
        seen.calls = [(name, arguments(text)) for _, (name, text) in sorted(calls.items())]
        return seen

    @staticmethod
    def groq(event):
        used = (getattr(event, "x_groq", None) or {}).get("usage")
        return used and openai.types.CompletionUsage.model_validate(used)

    @staticmethod
    def usage(usage):
        """Some count the tokens of thoughts beside those of the answer, which only the total tells."""
        if not usage:
            return None
        details = usage.completion_tokens_details
        beside = (details and details.reasoning_tokens) or 0
        counted = usage.prompt_tokens + usage.completion_tokens
        return usage.prompt_tokens, usage.completion_tokens + (beside if usage.total_tokens == counted + beside else 0)

    def says(self, event):
        return any(choice.delta.content for choice in event.choices)

    def leave(self, stream):
        stream.close()

    def returned(self, body, seen):
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": RESULT} for call in seen.turn.tool_calls
        ]
        return dict(body, messages=[*body["messages"], seen.turn, *results])

    def error(self, status):
        if status >= 500:
            return openai.InternalServerError
        return {
            400: openai.BadRequestError,
            401: openai.AuthenticationError,
            403: openai.PermissionDeniedError,
            404: openai.NotFoundError,
            429: openai.RateLimitError,
        }[status]


class Responses(Chat):
    name = golden = "responses"
    lacks = ("stop",)

    def whole(self, model, body):
        return self.read(self.sdk.responses.create(model=model, **body))

    def read(self, answer):
        seen = Seen(text=answer.output_text, turn=answer.output, stop=answer.status)
        seen.usage = answer.usage and (answer.usage.input_tokens, answer.usage.output_tokens)
        for item in answer.output:
            if item.type == "message":
                seen.refusal += "".join(it.refusal for it in item.content if it.type == "refusal")
            if item.type == "function_call":
                seen.calls.append((item.name, arguments(item.arguments)))
            if item.type == "reasoning":
                seen.thoughts += "".join(it.text for it in item.summary or [])
                seen.thoughts += "".join(it.text for it in getattr(item, "content", None) or [])
        return seen

    def stream(self, model, body):
        return self.sdk.responses.create(model=model, stream=True, **body)

    def fold(self, stream):
        text, last = "", None
        for event in stream:
            if event.type == "response.output_text.delta":
                text += event.delta
            if event.type in ("response.completed", "response.incomplete", "response.failed"):
                last = event.response
        seen = self.read(last)
        assert text == seen.text, f"pieces say {text!r}, the whole {seen.text!r}"
        return seen

    def says(self, event):
        return event.type == "response.output_text.delta"

    def returned(self, body, seen):
        results = [
            {"type": "function_call_output", "call_id": item.call_id, "output": RESULT}
            for item in seen.turn
            if item.type == "function_call"
        ]
        asked = body["input"]
        asked = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        return dict(body, input=[*asked, *seen.turn, *results])


class Messages(Client):
    name = golden = "messages"

    def open(self, base, retries):
        self.sdk = anthropic.Anthropic(base_url=base, api_key="sk-me", max_retries=retries, timeout=SECONDS)

    def whole(self, model, body):
        return self.read(self.sdk.messages.create(model=model, **body))

    def read(self, message):
        seen = Seen(turn=message.content, stop=message.stop_reason)
        for block in message.content:
            if block.type == "text":
                seen.text += block.text
            elif block.type == "thinking":
                seen.thoughts += block.thinking
            elif block.type == "tool_use":
                seen.calls.append((block.name, block.input))
        usage = message.usage
        prompt = usage.input_tokens + (usage.cache_read_input_tokens or 0)
        seen.usage = (prompt + (usage.cache_creation_input_tokens or 0), usage.output_tokens)
        return seen

    def stream(self, model, body):
        return self.sdk.messages.create(model=model, stream=True, **body)

    def ask(self, model, body, streamed=False):
        if not streamed:
            return self.whole(model, body)
        # The SDK puts the message together itself.
        with self.sdk.messages.stream(model=model, **body) as stream:
            return self.read(stream.get_final_message())

    def says(self, event):
        return event.type == "content_block_delta" and event.delta.type == "text_delta"

    def leave(self, stream):
        stream.close()

    def returned(self, body, seen):
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": RESULT}
            for block in seen.turn
            if block.type == "tool_use"
        ]
        turns = [{"role": "assistant", "content": seen.turn}, {"role": "user", "content": results}]
        return dict(body, messages=[*body["messages"], *turns])

    def error(self, status):
        if status == 529:
            return anthropic.OverloadedError if hasattr(anthropic, "OverloadedError") else anthropic.APIStatusError
        if status >= 500:
            return anthropic.InternalServerError
        return {
            400: anthropic.BadRequestError,
            401: anthropic.AuthenticationError,
            403: anthropic.PermissionDeniedError,
            404: anthropic.NotFoundError,
            429: anthropic.RateLimitError,
        }[status]


class Gemini(Client):
    name = golden = "gemini"

    def open(self, base, retries):
        options = google_types.HttpOptions(base_url=base, timeout=SECONDS * 1000)
        if retries:
            options.retry_options = google_types.HttpRetryOptions(
                attempts=retries + 1, initial_delay=1, http_status_codes=[429]
            )
        self.sdk = google.genai.Client(api_key="sk-me", http_options=options)

    def call(self, method, model, body):
        body = dict(body)
        contents = [google_types.Content.model_validate(it) for it in body.pop("contents")]
        config = google_types.GenerateContentConfig.model_validate(body.pop("generationConfig", {}) | body)
        return method(model=model, contents=contents, config=config)

    def whole(self, model, body):
        answer = self.call(self.sdk.models.generate_content, model, body)
        return self.fold([answer])

    def stream(self, model, body):
        return self.call(self.sdk.models.generate_content_stream, model, body)

    def fold(self, stream):
        seen = Seen()
        for chunk in stream:
            for candidate in chunk.candidates or []:
                if candidate.index:
                    continue
                seen.stop = candidate.finish_reason or seen.stop
                seen.turn = candidate.content or seen.turn
                for part in (candidate.content and candidate.content.parts) or []:
                    self.part(seen, part)
            used = chunk.usage_metadata
            if used and used.prompt_token_count is not None:
                prompt = used.prompt_token_count + (used.tool_use_prompt_token_count or 0)
                seen.usage = (prompt, (used.candidates_token_count or 0) + (used.thoughts_token_count or 0))
        return seen

    @staticmethod
    def part(seen, part):
        call, code = part.function_call, part.executable_code
        if call:
            # Its arguments may come in pieces, the first of which has the name.
            if call.name:
                seen.calls.append((call.name, dict(call.args or {})))
            for piece in call.partial_args or []:
                known = seen.calls[-1][1]
                name = piece.json_path.removeprefix("$.")
                known[name] = known.get(name, "") + (piece.string_value or "")
        elif code:
            seen.text += f"```{code.language.value.lower()}\n{code.code.rstrip()}\n```\n"
        elif part.thought:
            seen.thoughts += part.text or ""
        else:
            seen.text += part.text or ""

    def says(self, chunk):
        return bool(chunk.text)

    def leave(self, stream):
        stream.close()

    def returned(self, body, seen):
        results = []
        for part in seen.turn.parts:
            call = part.function_call
            if call:
                response = google_types.FunctionResponse(id=call.id, name=call.name, response={"result": RESULT})
                results.append(google_types.Part(function_response=response))
        turn = google_types.Content(role="user", parts=results)
        return dict(body, contents=[*body["contents"], seen.turn, turn])

    def error(self, status):
        return google_errors.ServerError if status >= 500 else google_errors.ClientError


class Ollama(Client):
    name, golden = "ollama", "ollama-chat"
    # This SDK asks once.
    retries = False

    def open(self, base, retries):
        self.sdk = ollama.Client(host=base, timeout=SECONDS)

    def whole(self, model, body):
        return self.fold([self.sdk.chat(model=model, **body)])

    def stream(self, model, body):
        return self.sdk.chat(model=model, stream=True, **body)

    def fold(self, stream):
        seen = Seen()
        for part in stream:
            seen.turn = part.message
            seen.text += part.message.content or ""
            seen.thoughts += part.message.thinking or ""
            seen.calls += [
                (it.function.name, dict(it.function.arguments)) for it in part.message.tool_calls or []
            ]
            seen.stop = part.done_reason or seen.stop
            if part.done and (part.prompt_eval_count is not None or part.eval_count is not None):
                seen.usage = (part.prompt_eval_count or 0, part.eval_count or 0)
        return seen

    def says(self, part):
        return bool(part.message.content)

    def leave(self, stream):
        stream.close()

    def returned(self, body, seen):
        results = [
            {"role": "tool", "tool_name": call.function.name, "content": RESULT}
            for call in seen.turn.tool_calls
        ]
        return dict(body, messages=[*body["messages"], seen.turn, *results])

    def error(self, _):
        return ollama.ResponseError


class LangChain(Chat):
    name, golden = "langchain", "chat"
    # `ChatOpenAI` reads no thoughts of the chat API.
    lacks = ("reasoning",)

    def open(self, base, retries):
        self.base, self.tries = base, retries

    def model(self, model):
        return langchain_openai.ChatOpenAI(
            base_url=f"{self.base}/v1",
            api_key="sk-me",
            model=model,
            max_retries=self.tries,
            timeout=SECONDS,
            stream_usage=True,
            use_responses_api=False,
        )

    def whole(self, model, body):
        body = dict(body)
        return self.read(self.model(model).invoke(body.pop("messages"), **body))

    def stream(self, model, body):
        body = dict(body)
        return self.model(model).stream(body.pop("messages"), **body)

    def fold(self, stream):
        whole = None
        for chunk in stream:
            whole = chunk if whole is None else whole + chunk
        return self.read(whole)

    def read(self, message):
        used = message.usage_metadata
        return Seen(
            text=message.text if isinstance(message.text, str) else message.text(),
            calls=[(call["name"], call["args"]) for call in message.tool_calls],
            usage=used and (used["input_tokens"], used["output_tokens"]),
            stop=message.response_metadata.get("finish_reason"),
            turn=message,
        )

    def says(self, chunk):
        return bool(chunk.content)

    def returned(self, body, seen):
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": RESULT} for call in seen.turn.tool_calls
        ]
        return dict(body, messages=[*body["messages"], seen.turn, *results])


CLIENTS = [Chat, Responses, Messages, Gemini, Ollama, LangChain]


def status_of(error):
    for name in ("status_code", "code"):
        if isinstance(getattr(error, name, None), int):
            return getattr(error, name)
    return None

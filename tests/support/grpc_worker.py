"""A reference worker: speaks proto/llm_service.proto and repeats what it is told.

    python grpc_worker.py PROTO HOST:PORT

needs grpcio, grpcio-tools and grpcio-health-checking. The last text of a user is repeated word by word;
some texts ask for more:

    tell            the request as the worker read it, as JSON, with the call's metadata and deadline
    tick            `tick ` for ever, until the call is cancelled
    fail CODE WORDS      fails at once
    break CODE WORDS     fails after the first word
    error CODE WORDS     says so in a chunk
    silent          ends without a finish reason or usage
    sick, well      what the health service says from now on

With tools it calls the first one; with a result of a tool it tells that; with an effort it thinks first.
Whatever ends a call too early is told on standard output.
"""

import importlib
import json
import pathlib
import sys
import tempfile
import time
from concurrent import futures

import grpc
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_tools import protoc

PROTO, ADDRESS = sys.argv[1:3]
out = tempfile.mkdtemp()
folder, name = str(pathlib.Path(PROTO).parent), pathlib.Path(PROTO).name
assert protoc.main(["", f"-I{folder}", f"--python_out={out}", f"--grpc_python_out={out}", name]) == 0
sys.path.insert(0, out)
pb = importlib.import_module("llm_service_pb2")
service = importlib.import_module("llm_service_pb2_grpc")

CODES = {code.value[0]: code for code in grpc.StatusCode}
HEALTH = health.HealthServicer()


def say(*words):
    print(*words, flush=True)


def text_of(message):
    return "".join(part.text for part in message.parts)


def chunk(**delta):
    return pb.ChatChunk(choices=[pb.ChoiceDelta(**delta)])


def failure(text):
    _, code, words = text.split(" ", 2)
    return int(code), words


class Worker(service.LLMServiceServicer):
    def ChatStream(self, request, context):
        ended = []
        context.add_callback(lambda: ended or say("cancelled", request.messages[-1].parts[0].text))
        yield from self.answer(request, context)
        ended.append(True)

    def answer(self, request, context):
        last = request.messages[-1]
        text = text_of(last)
        command = text.split(" ")[0]
        if command == "fail":
            code, words = failure(text)
            if code == 14:
                context.set_trailing_metadata([("grpc-retry-pushback-ms", "1500")])
            context.abort(CODES[code], words)
        yield pb.ChatChunk(id="chunk-1", model=request.model, created=1700000000)
        if command == "silent":
            yield chunk(content="hm")
            return
        if command == "break":
            code, words = failure(text)
            yield chunk(content="so ")
            context.abort(CODES[code], words)
        if command == "error":
            code, words = failure(text)
            yield chunk(content="so ")
            yield pb.ChatChunk(error=pb.Error(code=code, message=words, reason="worn_out"))
            return
        if command == "tick":
            while context.is_active():
                yield chunk(content="tick ")
                time.sleep(0.01)
            return
        if command in ("sick", "well"):
            serving = health_pb2.HealthCheckResponse.SERVING
            HEALTH.set("", serving if command == "well" else health_pb2.HealthCheckResponse.NOT_SERVING)
        reasoning = 0
        if request.HasField("reasoning_effort"):
            yield chunk(reasoning="Simple ")
            yield chunk(reasoning="sum.", reasoning_signature="c2ln")
            reasoning = 3
        if command == "tell":
            left = context.time_remaining()
            told = {
                "request": MessageToDict(request, preserving_proto_field_name=True),
                "metadata": {key: value for key, value in context.invocation_metadata()},
                "seconds": left if left is not None and left < 1e6 else None,
            }
            yield chunk(content=json.dumps(told), finish_reason=pb.FINISH_REASON_STOP)
            words = [0] * 4
        elif last.role == pb.ROLE_TOOL:
            words = f"It is {text} in Paris.".split(" ")
            yield chunk(content=" ".join(words), finish_reason=pb.FINISH_REASON_STOP)
        elif request.tools:
            cities = ["Paris", "Rome"] if " and " in text else ["Paris"]
            name = request.tools[0].name
            for index, city in enumerate(cities):
                call = pb.ToolCallDelta(index=index, id=f"call_{index + 1}", name=name)
                yield chunk(tool_calls=[call])
            for piece in ('{"city": ', '"%s"}'):
                for index, city in enumerate(cities):
                    arguments = piece % city if "%s" in piece else piece
                    yield chunk(tool_calls=[pb.ToolCallDelta(index=index, arguments=arguments)])
            yield chunk(finish_reason=pb.FINISH_REASON_TOOL_CALLS)
            words = [0] * 4
        else:
            words = text.split(" ")
            for at, word in enumerate(words):
                logprobs = []
                if request.HasField("top_logprobs"):
                    top = [pb.TokenLogprob(token="x", logprob=-2.5)]
                    logprobs = [pb.TokenLogprob(token=word, logprob=-0.5, bytes=word.encode(), top=top)]
                yield chunk(content=word if at == 0 else " " + word, logprobs=logprobs)
            yield chunk(finish_reason=pb.FINISH_REASON_STOP)
        used = pb.Usage(input_tokens=12, output_tokens=len(words) + reasoning, cached_tokens=2)
        if reasoning:
            used.reasoning_tokens = reasoning
        yield pb.ChatChunk(usage=used)

    def Embed(self, request, context):
        if request.inputs[0] == "fail":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many texts")
        if request.inputs[0] == "hang":
            say("deadline", context.time_remaining() is not None)
            context.add_callback(lambda: say("gone"))
            while context.is_active():
                time.sleep(0.01)
        size = request.dimensions or 3
        vectors = [pb.Embedding(values=[len(text) + at / 10 for at in range(size)]) for text in request.inputs]
        used = pb.Usage(input_tokens=sum(len(text) for text in request.inputs))
        return pb.EmbedResponse(model=request.model, embeddings=vectors, usage=used)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
service.add_LLMServiceServicer_to_server(Worker(), server)
health_pb2_grpc.add_HealthServicer_to_server(HEALTH, server)
HEALTH.set("", health_pb2.HealthCheckResponse.SERVING)
assert server.add_insecure_port(ADDRESS)
server.start()
say("ready")
server.wait_for_termination()

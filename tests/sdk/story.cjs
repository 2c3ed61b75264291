// SDKs for Node against weir, in front of providers of every dialect; the one argument is a file that says where.
// `WEIR_TEST_NODE` is the folder whose `node_modules` has them.
const fs = require("node:fs");
const path = require("node:path");
const assert = require("node:assert/strict");
const { createRequire } = require("node:module");

const load = createRequire(path.join(process.env.WEIR_TEST_NODE, "package.json"));
const OpenAI = load("openai");
const ai = load("ai");
const { createOpenAICompatible } = load("@ai-sdk/openai-compatible");
const { createOpenAI } = load("@ai-sdk/openai");

const told = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const STATUSES = [400, 401, 403, 404, 429, 500, 529];
const CLASSES = {
  400: OpenAI.BadRequestError,
  401: OpenAI.AuthenticationError,
  403: OpenAI.PermissionDeniedError,
  404: OpenAI.NotFoundError,
  429: OpenAI.RateLimitError,
};
const USED = [12, 4];
const PARIS = ["get_weather", { city: "Paris" }];
const ROME = ["get_weather", { city: "Rome" }];
const RESULT = "18 degrees";
// Only Anthropic's API has a status for overload; answers in OpenAI's dialect pass as they are.
const AS_IT_IS = ["openai", "llamacpp", "azure"];
const statusOf = (status, provider) => (status === 529 && !AS_IT_IS.includes(provider) ? 503 : status);

function body(folder, feature) {
  const asked = JSON.parse(fs.readFileSync(path.join(told.golden, folder, `${feature}.json`), "utf8"));
  for (const key of ["model", "stream", "stream_options"]) delete asked[key];
  return asked;
}

async function left(provider, client) {
  const answer = await fetch(`${told.providers[provider]}/left/${client}`, { signal: AbortSignal.timeout(20000) });
  assert.equal(answer.status, 200);
}

async function fails(act) {
  try {
    await act();
  } catch (error) {
    return error;
  }
  assert.fail("it was answered");
}

// === openai ===

class Chat {
  name = "node";
  sdk(maxRetries = 0) {
    return new OpenAI({ baseURL: `${told.weir}/v1`, apiKey: "sk-me", maxRetries, timeout: 20000 });
  }

  async whole(model, asked, retries = 0) {
    const answer = await this.sdk(retries).chat.completions.create({ model, ...asked });
    const message = answer.choices[0].message;
    const calls = (message.tool_calls ?? []).map((it) => [it.function.name, JSON.parse(it.function.arguments)]);
    const usage = [answer.usage.prompt_tokens, answer.usage.completion_tokens];
    return { text: message.content ?? "", thoughts: message.reasoning_content ?? "", calls, usage, message };
  }

  async streamed(model, asked) {
    // The SDK puts the answer together itself.
    const stream = this.sdk().chat.completions.stream({ model, stream_options: { include_usage: true }, ...asked });
    const answer = await stream.finalChatCompletion();
    const message = answer.choices[0].message;
    const calls = (message.tool_calls ?? []).map((it) => [it.function.name, JSON.parse(it.function.arguments)]);
    return { text: message.content ?? "", calls, usage: [answer.usage.prompt_tokens, answer.usage.completion_tokens] };
  }

  returned(asked, seen) {
    const results = seen.message.tool_calls.map((it) => ({ role: "tool", tool_call_id: it.id, content: RESULT }));
    return { ...asked, messages: [...asked.messages, seen.message, ...results] };
  }

  async leave(model, asked) {
    for await (const event of await this.sdk().chat.completions.create({ model, stream: true, ...asked })) {
      // Leaving the loop aborts the request.
      if (event.choices[0]?.delta?.content) return;
    }
    assert.fail("the stream ended");
  }

  *steps() {
    yield ["text", text];
    yield ["tools", tools];
    yield ["parallel tools", parallel];
    yield ["thoughts", thoughts];
    yield ["schema", schema];
    yield ["cancel", cancel];
    yield ["busy", busy];
    for (const status of STATUSES) yield [`error ${status}`, (client, provider) => error(client, provider, status)];
  }

  wrong(error, status) {
    const wanted = status >= 500 ? OpenAI.InternalServerError : CLASSES[status];
    assert.ok(error instanceof wanted, `${error.constructor.name} ${error} instead of ${wanted.name}`);
    return error.status;
  }
  folder = "chat";
}

class Responses extends Chat {
  name = "node-responses";
  folder = "responses";

  async whole(model, asked, retries = 0) {
    return this.read(await this.sdk(retries).responses.create({ model, ...asked }));
  }

  async streamed(model, asked) {
    return this.read(await this.sdk().responses.stream({ model, ...asked }).finalResponse());
  }

  read(answer) {
    const of = (type) => answer.output.filter((it) => it.type === type);
    const calls = of("function_call").map((it) => [it.name, JSON.parse(it.arguments)]);
    const thoughts = of("reasoning").flatMap((it) => [...it.summary, ...(it.content ?? [])].map((part) => part.text));
    const usage = [answer.usage.input_tokens, answer.usage.output_tokens];
    return { text: answer.output_text, thoughts: thoughts.join(""), calls, usage, output: answer.output };
  }

  returned(asked, seen) {
    const input = typeof asked.input === "string" ? [{ role: "user", content: asked.input }] : asked.input;
    const calls = seen.output.filter((it) => it.type === "function_call");
    const results = calls.map((it) => ({ type: "function_call_output", call_id: it.call_id, output: RESULT }));
    return { ...asked, input: [...input, ...seen.output, ...results] };
  }

  async leave(model, asked) {
    for await (const event of await this.sdk().responses.create({ model, stream: true, ...asked })) {
      if (event.type === "response.output_text.delta") return;
    }
    assert.fail("the stream ended");
  }
}

// === Vercel's AI SDK ===

const WEATHER = {
  get_weather: ai.tool({
    description: "The weather of a city.",
    inputSchema: ai.jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] }),
  }),
};
const PERSON = ai.jsonSchema({
  type: "object",
  properties: { name: { type: "string" }, age: { type: "integer" } },
  required: ["name", "age"],
  additionalProperties: false,
});

class Vercel extends Chat {
  name = "vercel";
  settings = { baseURL: `${told.weir}/v1`, apiKey: "sk-me" };
  provider = createOpenAICompatible({ ...this.settings, name: "weir", includeUsage: true, supportsStructuredOutputs: true });

  model(model) {
    return this.provider.chatModel(model);
  }

  options(model, asked, maxRetries = 0) {
    return { model: this.model(model), maxRetries, ...asked };
  }

  async whole(model, _, retries = 0) {
    return this.read(await ai.generateText(this.options(model, this.asked(model), retries)));
  }

  async streamed(model) {
    const answer = ai.streamText({ ...this.options(model, this.asked(model)), onError: () => {} });
    const usage = await answer.totalUsage;
    return this.read({
      text: await answer.text,
      reasoningText: await answer.reasoningText,
      toolCalls: await answer.toolCalls,
      usage,
    });
  }

  asked(model) {
    const asked = { prompt: "Say hello." };
    return model.includes("tools") ? { ...asked, tools: WEATHER } : asked;
  }

  read(answer) {
    const calls = answer.toolCalls.map((it) => [it.toolName, it.input]);
    const usage = [answer.usage.inputTokens, answer.usage.outputTokens];
    return { text: answer.text, thoughts: answer.reasoningText ?? "", calls, usage, response: answer.response };
  }

  *steps() {
    for (const step of super.steps()) {
      if (step[0] === "tools") yield ["tools", loop];
      else if (step[0] === "schema") yield ["schema", object];
      else yield step;
    }
  }

  async leave(model) {
    const aborting = new AbortController();
    const asked = { ...this.asked(model), abortSignal: aborting.signal, onError: () => {} };
    for await (const part of ai.streamText(this.options(model, asked)).textStream) {
      if (part) return aborting.abort();
    }
    assert.fail("the stream ended");
  }

  wrong(error) {
    assert.ok(ai.APICallError.isInstance(error), `${error.constructor.name} ${error}`);
    return error.statusCode;
  }
}

/** The same, by the package for OpenAI itself: Responses is what it asks by default. */
class VercelOpenAi extends Vercel {
  name = "vercel-openai";
  provider = createOpenAI(this.settings);
  model(model) {
    return this.provider.responses(model);
  }
}

// === the story ===

async function text(client, provider) {
  for (const how of ["whole", "streamed"]) {
    const seen = await client[how](`${provider}-text`, body(client.folder, "text"));
    assert.deepEqual([seen.text, seen.calls, seen.usage], ["Hello there!", [], USED], how);
  }
}

async function tools(client, provider) {
  const asked = body(client.folder, "tools");
  const streamed = await client.streamed(`${provider}-tools`, asked);
  assert.deepEqual([streamed.calls, streamed.usage], [[PARIS], USED]);
  const seen = await client.whole(`${provider}-tools`, asked);
  assert.deepEqual([seen.calls, seen.usage], [[PARIS], USED]);
  const answered = await client.whole(`${provider}-tools`, client.returned(asked, seen));
  assert.deepEqual([answered.text, answered.usage], ["It is 18 degrees in Paris.", USED]);
}

/** The SDK calls the tool and goes on by itself. */
async function loop(client, provider) {
  const called = [];
  const execute = (input) => {
    called.push(input);
    return RESULT;
  };
  const answer = await ai.generateText({
    ...client.options(`${provider}-tools`, {}),
    prompt: "How is the weather in Paris?",
    tools: { get_weather: { ...WEATHER.get_weather, execute } },
    stopWhen: ai.stepCountIs(3),
  });
  assert.deepEqual([answer.text, called], ["It is 18 degrees in Paris.", [{ city: "Paris" }]]);
  assert.deepEqual([answer.totalUsage.inputTokens, answer.totalUsage.outputTokens], [24, 8]);
}

async function parallel(client, provider) {
  for (const how of ["whole", "streamed"]) {
    const seen = await client[how](`${provider}-parallel_tools`, body(client.folder, "parallel_tools"));
    assert.deepEqual([seen.calls, seen.usage], [[PARIS, ROME], USED], how);
  }
}

async function thoughts(client, provider) {
  const seen = await client.whole(`${provider}-reasoning`, body(client.folder, "reasoning"));
  // Azure's chat API keeps thoughts to itself.
  const wanted = provider === "azure" ? "" : "Simple sum.";
  assert.deepEqual([seen.text, seen.thoughts, seen.usage], ["4", wanted, [12, 5]]);
}

async function schema(client, provider) {
  const seen = await client.whole(`${provider}-schema`, body(client.folder, "schema"));
  assert.deepEqual(JSON.parse(seen.text), { name: "Ada", age: 36 });
}

async function object(client, provider) {
  const asked = { prompt: "Who is Ada?", output: ai.Output.object({ schema: PERSON, name: "person" }) };
  const answer = await ai.generateText(client.options(`${provider}-schema`, asked));
  assert.deepEqual(answer.output, { name: "Ada", age: 36 });
}

async function cancel(client, provider) {
  await client.leave(`${provider}-endless-${client.name}`, body(client.folder, "text"));
  await left(provider, client.name);
}

async function busy(client, provider) {
  const began = performance.now();
  const seen = await client.whole(`${provider}-busy-${client.name}`, body(client.folder, "text"), 1);
  assert.equal(seen.text, "Hello there!");
  assert.ok(performance.now() - began > 900, "the SDK didn't wait as Retry-After has it");
}

async function error(client, provider, status) {
  const failed = await fails(() => client.whole(`${provider}-error-${status}`, body(client.folder, "text")));
  assert.equal(client.wrong(failed, status), statusOf(status, provider));
  assert.match(String(failed.message), new RegExp(`${status} is what it comes to`));
}

async function pair(client, provider) {
  const wrong = [];
  let count = 0;
  for (const [name, act] of client.steps()) {
    count += 1;
    try {
      await act(client, provider);
    } catch (error) {
      const place = (error.stack ?? "").split("\n").find((line) => line.includes("story.cjs")) ?? "";
      wrong.push(`${client.name} x ${provider}, ${name}: ${String(error).replace(/\s+/g, " ").slice(0, 400)} ${place.trim()}`);
    }
  }
  return { wrong, count };
}

async function main() {
  const pairs = [];
  for (const client of [new Chat(), new Responses(), new Vercel(), new VercelOpenAi()]) {
    for (const provider of Object.keys(told.providers)) {
      // Those have a Responses API of their own; the golden answers are those of the chat API.
      const native = ["openai", "azure"].includes(provider);
      if (native && ["node-responses", "vercel-openai"].includes(client.name)) continue;
      pairs.push([client, provider]);
    }
  }
  const results = await Promise.all(pairs.map(([client, provider]) => pair(client, provider)));
  const wrong = results.flatMap((it) => it.wrong);
  const count = results.reduce((sum, it) => sum + it.count, 0);
  console.log(`${count} steps of ${pairs.length} pairs, ${wrong.length} wrong`);
  if (wrong.length) {
    console.error(wrong.join("\n"));
    process.exit(1);
  }
  console.log("all is well");
}

main();

// OpenAI's Node client against serving: does what it is told on its command line, prints JSON.
const OpenAI = require("openai");

const [baseURL, apiKey, adapter] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const greedy = { model: adapter, messages, temperature: 0, max_completion_tokens: 8 };

async function refused(call) {
  try {
    await call();
  } catch (error) {
    return { status: error.status, code: error.code, param: error.param };
  }
  throw new Error("it was not refused");
}

async function main() {
  const found = {};
  found.models = [];
  for await (const model of client.models.list()) found.models.push(model.id);
  found.model = (await client.models.retrieve(adapter)).id;

  const { data, response } = await client.chat.completions.create(greedy).withResponse();
  found.answer = data.choices[0].message.content;
  found.usage = data.usage;
  found.version = response.headers.get("x-tailorbird-version");

  const stream = await client.chat.completions.create({
    ...greedy,
    stream: true,
    stream_options: { include_usage: true },
  });
  found.streamed = "";
  for await (const piece of stream) {
    found.streamed += piece.choices[0]?.delta.content ?? "";
    if (piece.usage) found.streamedUsage = piece.usage;
  }

  const completion = await client.completions.create({
    model: adapter,
    prompt: "Hello",
    temperature: 0,
    max_tokens: 4,
    logprobs: 1,
  });
  found.completion = completion.choices[0].text;
  found.tokens = completion.choices[0].logprobs.tokens;

  const city = {
    type: "object",
    properties: { city: { enum: ["Rome"] } },
    required: ["city"],
    additionalProperties: false,
  };
  const called = await client.chat.completions.create({
    model: adapter,
    messages,
    tools: [{ type: "function", function: { name: "weather", parameters: city } }],
    tool_choice: "required",
    parallel_tool_calls: false,
    max_tokens: 200,
  });
  const call = called.choices[0].message.tool_calls[0].function;
  found.call = [call.name, JSON.parse(call.arguments), called.choices[0].finish_reason];

  // Left in the midst: the client closes its connection.
  const long = await client.chat.completions.create({ ...greedy, max_completion_tokens: 1900, stream: true });
  for await (const _ of long) break;

  const other = { ...greedy, model: "tenants/globex/adapters/support" };
  found.unknown = await refused(() => client.chat.completions.create(other));
  found.field = await refused(() => client.chat.completions.create({ ...greedy, temprature: 1 }));
  const nobody = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
  found.token = await refused(() => nobody.models.list());
  console.log(JSON.stringify(found));
}

main();

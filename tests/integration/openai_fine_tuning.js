// OpenAI's Node client against the trainer: does what it is told on its command line, prints JSON.
const fs = require("node:fs");
const OpenAI = require("openai");

const [baseURL, apiKey, path, broken] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

async function refused(call) {
  try {
    await call();
  } catch (error) {
    return { status: error.status, code: error.code, param: error.param };
  }
  throw new Error("it was not refused");
}

async function ended(id) {
  for (;;) {
    const job = await client.fineTuning.jobs.retrieve(id);
    if (["succeeded", "failed", "cancelled"].includes(job.status)) return job;
  }
}

async function main() {
  const found = {};
  const file = await client.files.create({ file: fs.createReadStream(path), purpose: "fine-tune" });
  found.file = [file.filename, file.bytes];
  found.content = await (await client.files.content(file.id)).text();
  found.files = [];
  for await (const one of client.files.list({ limit: 1 })) found.files.push(one.filename);

  const job = await client.fineTuning.jobs.create({
    model: "base",
    training_file: file.id,
    suffix: "node",
    seed: 3,
    method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 2 } } },
  });
  const done = await ended(job.id);
  found.job = [done.status, done.fine_tuned_model];
  found.jobs = [];
  for await (const one of client.fineTuning.jobs.list({ limit: 1 })) found.jobs.push(one.id === job.id);
  found.messages = [];
  for await (const event of client.fineTuning.jobs.listEvents(job.id, { limit: 2 })) {
    found.messages.push(event.message);
  }
  found.checkpoints = (await client.fineTuning.jobs.checkpoints.list(job.id)).data.length;

  const other = { model: "base", training_file: file.id };
  found.field = await refused(() => client.fineTuning.jobs.create({ ...other, n_epoch: 1 }));
  found.unknown = await refused(() => client.fineTuning.jobs.retrieve("ftjob-none"));
  found.broken = await refused(() =>
    client.files.create({ file: fs.createReadStream(broken), purpose: "fine-tune" }),
  );
  found.deleted = (await client.files.delete(file.id)).deleted;
  console.log(JSON.stringify(found));
}

main();

// From a JSONL file to an answer, in Node. With `tailorbird up` running, after `make protos-dist` and
// `npm install` in this folder:
//
//   node fine_tune.js tenants/acme ../../support/train.jsonl "Where is W-5663?"
//
// TAILORBIRD_TRAINER, TAILORBIRD_SERVING and TAILORBIRD_TOKEN say where else the services are, and who
// calls; TAILORBIRD_PROTOS where the protos were unpacked.
"use strict";

const { randomUUID } = require("node:crypto");
const { createReadStream } = require("node:fs");
const path = require("node:path");
const { setTimeout: pause } = require("node:timers/promises");
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");

const PROTOS =
  process.env.TAILORBIRD_PROTOS ?? path.join(__dirname, "../../../build/tailorbird-protos");
const CHUNK_BYTES = 2 ** 20;
const PATIENCE_MS = 900_000;
const ENDS = ["JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED"];

const definitions = loadSync(
  [
    "tailorbird/tuning/v1/tuning_service.proto",
    "tailorbird/serving/v1/inference_service.proto",
    "google/rpc/status.proto",
    "google/rpc/error_details.proto",
  ],
  { includeDirs: [PROTOS], keepCase: true, longs: Number, enums: String, oneofs: true, defaults: true },
);
const { tailorbird } = grpc.loadPackageDefinition(definitions);

/** Open a client of a service: TLS, unless it is on this machine. */
function connect(Service, address) {
  const local = /^(localhost|127\.0\.0\.1|\[::1\]):/.test(address);
  const credentials = local ? grpc.credentials.createInsecure() : grpc.credentials.createSsl();
  return new Service(address, credentials, { "grpc.keepalive_time_ms": 30_000 });
}

/** What every call carries: who calls, and on generations the adapter, for proxies to hash on. */
function metadata(adapter) {
  const carried = new grpc.Metadata();
  if (process.env.TAILORBIRD_TOKEN) {
    carried.set("authorization", `Bearer ${process.env.TAILORBIRD_TOKEN}`);
  }
  if (adapter) carried.set("x-tailorbird-adapter", adapter);
  return carried;
}

/** Make one call. */
function call(client, method, request) {
  const deadline = Date.now() + 60_000;
  return new Promise((resolve, reject) => {
    client[method](request, metadata(), { deadline }, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}

/** Upload a file in bounded memory. */
async function upload(trainer, parent, dataset_id, file) {
  let stream;
  const answered = new Promise((resolve, reject) => {
    stream = trainer.UploadDataset(metadata(), (error, response) =>
      error ? reject(error) : resolve(response.dataset),
    );
  });
  answered.catch(() => {}); // It is awaited below, after what is being sent.
  const written = (message) => new Promise((resolve) => stream.write(message, resolve));
  const send = (message) => Promise.race([written(message), answered]);
  await send({ header: { parent, dataset_id } });
  for await (const chunk of createReadStream(file, { highWaterMark: CHUNK_BYTES })) {
    await send({ chunk });
  }
  stream.end();
  return answered;
}

/** Yield a job's events up to the one that ends it; goes on where a lost connection left off. */
async function* watch(trainer, name) {
  let after_sequence = 0;
  let heard = Date.now();
  for (;;) {
    const events = trainer.WatchJob({ name, after_sequence }, metadata());
    events.on("error", () => {}); // Of one that is cancelled below; others are thrown by the loop.
    try {
      for await (const { event } of events) {
        after_sequence = event.sequence;
        heard = Date.now();
        yield event;
        if (ENDS.includes(event.state_changed?.state)) return;
      }
      return;
    } catch (error) {
      const away = error.code === grpc.status.UNAVAILABLE || error.code === grpc.status.CANCELLED;
      if (!away || Date.now() - heard > PATIENCE_MS) throw error;
      await pause(500 + 500 * Math.random());
    } finally {
      events.cancel();
    }
  }
}

/** The reason in an error's google.rpc.Status, which is stable; its message is not. */
function reasonOf(error) {
  const [bytes] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const details = bytes ? definitions["google.rpc.Status"].deserialize(bytes).details : [];
  const info = details.find((one) => one.type_url.endsWith("/google.rpc.ErrorInfo"));
  if (!info) return grpc.status[error.code];
  return definitions["google.rpc.ErrorInfo"].deserialize(info.value).reason;
}

async function main([tenant, file, question]) {
  if (!question) throw new Error("usage: node fine_tune.js tenants/TENANT FILE.jsonl QUESTION");
  const trainer = connect(
    tailorbird.tuning.v1.TuningService, process.env.TAILORBIRD_TRAINER ?? "localhost:50051");
  const serving = connect(
    tailorbird.serving.v1.InferenceService, process.env.TAILORBIRD_SERVING ?? "localhost:50052");
  const adapter = `${tenant}/adapters/${path.basename(path.dirname(path.resolve(file)))}`;

  const dataset = await upload(trainer, tenant, path.basename(file, path.extname(file)), file);
  console.log(`${dataset.name}: ${dataset.record_count} records`);

  const spec = { training_dataset: dataset.name, adapter, validation_fraction: 0.1 };
  const asked = { parent: tenant, job: { spec }, request_id: randomUUID() };
  let { job } = await call(trainer, "CreateJob", asked);
  for await (const { evaluation } of watch(trainer, job.name)) {
    if (evaluation) console.log(`step ${evaluation.step}: loss ${evaluation.validation_loss.toFixed(3)}`);
  }
  ({ job } = await call(trainer, "GetJob", { name: job.name }));
  if (job.state !== "JOB_STATE_SUCCEEDED") throw new Error(`the job failed: ${job.error?.message}`);
  console.log(`published ${job.version}`);

  const request = {
    adapter,
    version: job.version.split("/").pop(),
    chat: { messages: [{ role: "ROLE_USER", content: question }] },
    sampling: { temperature: 0, max_tokens: 64 },
  };
  const deadline = Date.now() + 60_000;
  for await (const piece of serving.StreamGenerate({ request }, metadata(adapter), { deadline })) {
    process.stdout.write(piece.text);
  }
  console.log();
  trainer.close();
  serving.close();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.code ? `${grpc.status[error.code]} (${reasonOf(error)}): ${error.details}` : error.message);
  process.exit(1);
});

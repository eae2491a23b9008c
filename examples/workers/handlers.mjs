// Handlers for `worker.mjs`: a function for each job type.

import { setTimeout as sleep } from "node:timers/promises";

export function example_hello(payload, job) {
  return { greeting: `Hello, ${payload.name ?? "nobody"}`, attempt: job.attempt };
}

export async function example_slow(payload, job) {
  await sleep((payload.seconds ?? 5) * 1000, undefined, { signal: job.signal });
  return "done";
}

// A worker in Node, without dependencies: claims jobs over HTTP, runs them, reports what became of them.
//
//   FINMIND_URL=http://127.0.0.1:8000 FINMIND_KEY=fmj_… node worker.mjs handlers.mjs
//
// The module exports one function for each job type: `export async function send_invoice(payload, job) {…}`.
// What it returns is the job's result; what it throws fails the attempt. `job.signal` aborts when it is to stop:
// the lease was lost, the time is up, somebody cancelled the job, or the worker ends. See docs/remote-workers.md.

import { hostname } from "node:os";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const url = process.env.FINMIND_URL ?? "http://127.0.0.1:8000";
const concurrency = Number(process.env.CONCURRENCY ?? 10);
const graceSeconds = Number(process.env.GRACE_SECONDS ?? 25);
const worker = process.env.WORKER_NAME ?? `${hostname()}:${process.pid}`;
const queues = process.env.QUEUES?.split(",");
const handlers = await import(pathToFileURL(resolve(process.argv[2])));
const jobTypes = Object.keys(handlers).filter((name) => typeof handlers[name] === "function");

const running = new Map(); // by lease token
const stopping = new AbortController();
const now = () => performance.now() / 1000;

class Refused extends Error {} // the call itself is wrong: no use in sending it again

async function call(path, body, { until = Infinity, signal } = {}) {
  for (let pause = 0.2; ; pause = Math.min(pause * 2, 5)) {
    try {
      const answer = await fetch(`${url}/worker/${path}`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-api-key": process.env.FINMIND_KEY ?? "" },
        body: JSON.stringify(body),
        signal: AbortSignal.any([AbortSignal.timeout(60_000), ...(signal ? [signal] : [])]),
      });
      if (answer.ok) return await answer.json();
      const problem = await answer.text();
      if (answer.status < 500 && ![408, 429].includes(answer.status)) throw new Refused(problem);
      throw new Error(`${answer.status} ${problem}`);
    } catch (error) {
      if (error instanceof Refused || signal?.aborted || now() > until) throw error;
      console.error(`${path}: ${error.message}; again in ${pause} s`);
      await sleep(pause * 1000 * (0.5 + Math.random() / 2));
    }
  }
}

async function claimForever() {
  for (let number = 1; !stopping.signal.aborted; number++) {
    while (running.size >= concurrency) await Promise.race([...running.values()].map((job) => job.ended));
    const asked = {
      worker, queues, job_types: jobTypes, limit: Math.min(concurrency - running.size, 100),
      wait_seconds: 20, request_id: `${process.pid}-${Date.now()}-${number}`,
    };
    const sentAt = now(); // before the call: this worker's view of a lease ends first
    try {
      const { jobs, drain } = await call("claim", asked, { signal: stopping.signal });
      for (const job of jobs) start(job, sentAt);
      if (drain) stop("the service asked for it");
    } catch (error) {
      if (!stopping.signal.aborted) throw error;
    }
  }
}

function start(job, sentAt) {
  const run = { ...job, lease: { id: job.id, lease_token: job.lease_token }, abort: new AbortController() };
  run.leaseUntil = sentAt + job.lease_seconds;
  run.signal = run.abort.signal;
  running.set(job.lease_token, run);
  run.ended = attempt(run).finally(() => running.delete(job.lease_token));
}

async function attempt(run) {
  let [path, report] = ["complete", {}];
  try {
    report = { result: (await handlers[run.job_type](run.payload, run)) ?? null };
  } catch (error) {
    [path, report] = ["fail", { error: { type: error.name, message: error.message, traceback: error.stack } }];
  }
  if (run.signal.reason === "shutdown" && path === "fail") [path, report] = ["release", {}];
  if (["lease_lost", "timed_out", "cancelled"].includes(run.signal.reason)) return; // not its own any more
  try {
    const jobs = [{ ...run.lease, ...report }];
    const told = await call(path, { worker, jobs }, { until: run.leaseUntil });
    if (told.jobs[0].outcome === "lease_lost") console.error(`job ${run.id}: the lease was lost`);
  } catch (error) {
    console.error(`job ${run.id}: not reported, and will run again: ${error.message}`);
  }
}

async function heartbeatForever(seconds) {
  const ended = new AbortController();
  const beat = async () => {
    const sentAt = now();
    const jobs = [...running.values()].map((run) => run.lease);
    const answer = await call("heartbeat", { worker, jobs }, { until: sentAt + seconds });
    for (const found of answer.jobs) {
      const run = running.get(found.lease_token);
      if (!run) continue;
      if (["held", "cancel"].includes(found.state)) run.leaseUntil = sentAt + found.lease_seconds;
      if (found.state !== "held") run.abort.abort(found.state);
    }
    if (answer.drain) stop("the service asked for it");
  };
  while (!ended.signal.aborted) {
    await sleep(seconds * 1000, undefined, { ref: false });
    await beat().catch((error) => console.error(`heartbeat: ${error.message}`));
    for (const run of running.values()) if (now() > run.leaseUntil) run.abort.abort("lease_lost");
  }
}

function stop(why) {
  if (stopping.signal.aborted) return;
  console.error(`${worker} stops: ${why}`);
  stopping.abort();
}

const known = await call("register", { worker, queues, job_types: jobTypes, concurrency });
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => stop(signal));
console.error(`${worker} claims ${jobTypes.join(", ")}`);
heartbeatForever(known.heartbeat_seconds);
await claimForever();
const last = () => Promise.all([...running.values()].map((run) => run.ended));
await Promise.race([last(), sleep(graceSeconds * 1000)]);
for (const run of running.values()) run.abort.abort("shutdown"); // what stops now is given back
await Promise.race([last(), sleep(1000)]);
const left = [...running.values()].map((run) => run.lease);
if (left.length) await call("release", { worker, jobs: left }, { until: now() + 5 }).catch(() => {});
await call("stop", { worker }, { until: now() + 5 }).catch(() => {});
process.exit(0);

// The frame of the Node.js drivers: the same steps on the same clock as driver.py; change both
// together. A peer is an object with `unfinished`, `kept` (SQL) and open, enqueue, enqueueMany,
// start, stop.

import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";

const WAIT_SECONDS = 60; // bound on waiting for the last jobs, or for their outcomes
const IDLE_SECONDS = 1; // how long a worker idles before the first timed call

const now = () => performance.now() / 1000;

/** Do what the command line asks for, and print the result. */
export async function main(peer) {
  const task = JSON.parse(process.argv[2]);
  const measure = { drain, bulk, latency }[task.mode];
  console.log(JSON.stringify(await measure(peer, task)));
  process.exit(0); // a peer's timer must not keep the process
}

function bounded(promise, seconds) {
  const late = sleep(seconds * 1000, undefined, { ref: false }).then(() => {
    throw new Error(`not done within ${seconds} s`);
  });
  return Promise.race([promise, late]);
}

async function ask(client, sql) {
  return Object.values((await client.query(sql)).rows[0])[0];
}

async function drain(peer, task) {
  const done = Promise.withResolvers();
  let left = task.jobs;
  let first = 0;
  let last = 0;
  await peer.open(task.url, () => {
    if (left === task.jobs) first = now();
    left -= 1;
    if (left === 0) done.resolve();
  });
  await peer.enqueueMany(new Array(task.jobs).fill(task.payload), task.chunk);
  const watch = new pg.Client({ connectionString: task.url });
  await watch.connect();
  await watch.query("ANALYZE"); // or plans depend on whether autovacuum came by
  await watch.query("CHECKPOINT");
  const started = now();
  await peer.start();
  const recorded = async () => {
    await done.promise;
    last = now();
    while (await ask(watch, `SELECT EXISTS (${peer.unfinished})`)) await sleep(1);
  };
  await bounded(recorded(), WAIT_SECONDS + task.jobs / 100);
  const seconds = now() - started;
  await peer.stop();
  const kept = Number(await ask(watch, `SELECT count(*) FROM (${peer.kept}) AS kept`));
  await watch.end();
  if (left) throw new Error(`${-left} runs more than jobs`); // they would flatter the rate
  return { seconds, first: first - started, last: last - started, kept };
}

async function bulk(peer, task) {
  await peer.open(task.url, () => {});
  const payloads = new Array(task.jobs).fill(task.payload);
  const started = now();
  await peer.enqueueMany(payloads, task.chunk);
  const seconds = now() - started;
  await peer.stop();
  return { seconds };
}

async function latency(peer, task) {
  const jobs = Math.floor(task.seconds * task.rate);
  const called = new Map();
  const began = new Map();
  const allBegan = Promise.withResolvers();
  await peer.open(task.url, (payload) => {
    began.set(payload.n, now());
    if (began.size === jobs) allBegan.resolve();
  });
  await peer.start();
  await sleep(IDLE_SECONDS * 1000);
  const begin = now() + 0.1;
  const call = async (n) => {
    await sleep(Math.max(0, begin + n / task.rate - now()) * 1000);
    called.set(n, Math.min(begin + n / task.rate, now())); // a late call counts as waiting
    await peer.enqueue({ ...task.payload, n });
  };
  await Promise.all(Array.from({ length: jobs }, (_, n) => call(n)));
  await bounded(allBegan.promise, WAIT_SECONDS);
  await peer.stop();
  const waits = [];
  // The first second warms up: connections, statements, caches.
  for (let n = Math.min(task.rate, Math.floor(jobs / 2)); n < jobs; n += 1) {
    waits.push(began.get(n) - called.get(n));
  }
  return { waits };
}

// Drives pg-boss the way its documentation offers for speed: its page "Workers" has `batchSize` for
// taking many jobs at once and several workers in a process. The documentation of its types, as
// installed, adds `localConcurrency`, `burstWhenBatchFull` for fetching on without a delay while
// batches come back full, and `useListenNotify` with a queue's `notify`, by which new jobs wake the
// worker instead of its poll. `insert`
// is its bulk API. No page gives sizes: of batches of 100, 500 and 2,000 with 1, 2 and 4 workers,
// these were the fastest on two cores. Finished jobs are kept for a week, which is its default.

import { PgBoss } from "pg-boss";
import { main } from "./driver.mjs";

const BATCH = 500;
const CONCURRENCY = 4;

let boss, handler;

await main({
  unfinished: "SELECT FROM pgboss.job WHERE name = 'noop' AND state < 'completed'",
  kept: "SELECT FROM pgboss.job WHERE name = 'noop' AND state >= 'completed'",

  async open(connectionString, handle) {
    boss = new PgBoss({ connectionString, useListenNotify: true });
    boss.on("error", (error) => console.error(error));
    await boss.start();
    await boss.createQueue("noop", { notify: true });
    handler = async (jobs) => {
      for (const job of jobs) handle(job.data);
    };
  },

  async enqueue(payload) {
    await boss.send("noop", payload);
  },

  async enqueueMany(payloads, chunk) {
    for (let at = 0; at < payloads.length; at += chunk) {
      await boss.insert("noop", payloads.slice(at, at + chunk).map((data) => ({ data })));
    }
  },

  async start() {
    const options = { batchSize: BATCH, localConcurrency: CONCURRENCY, burstWhenBatchFull: true };
    await boss.work("noop", options, handler);
  },

  async stop() {
    await boss.stop({ graceful: true, timeout: 5000 });
  },
});

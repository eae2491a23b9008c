// Drives graphile-worker the way its documentation calls fast: its page "Performance" gives the
// settings behind its own figures, and these are they: 24 jobs at once on 25 connections, a local
// queue of 500, completions and failures batched without a delay. `addJobs` is the batch call of
// the same page. It deletes a job when it is done.

import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { main } from "./driver.mjs";

const logger = new Logger(() => () => {}); // its own measurement does not log successes either

let preset, utils, runner, taskList;

await main({
  unfinished: "SELECT FROM graphile_worker._private_jobs",
  kept: "SELECT FROM graphile_worker._private_jobs",

  async open(connectionString, handle) {
    preset = {
      worker: {
        connectionString,
        logger,
        concurrentJobs: 24,
        maxPoolSize: 25,
        localQueue: { size: 500 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    };
    taskList = { noop: async (payload) => handle(payload) };
    utils = await makeWorkerUtils({ preset });
    await utils.migrate();
  },

  async enqueue(payload) {
    await utils.addJob("noop", payload);
  },

  async enqueueMany(payloads, chunk) {
    for (let at = 0; at < payloads.length; at += chunk) {
      const part = payloads.slice(at, at + chunk);
      await utils.addJobs(part.map((payload) => ({ identifier: "noop", payload })));
    }
  },

  async start() {
    runner = await run({ preset, taskList, noHandleSignals: true });
  },

  async stop() {
    await runner?.stop();
    await utils.release();
  },
});

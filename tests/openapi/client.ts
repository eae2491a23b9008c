// What a client's author writes against the generated types: each line must compile, and no more.
import type { components, operations, paths } from "./api";

type Schemas = components["schemas"];

export const job: Schemas["JobIn"] = { job_type: "send_invoice" };
export const batch: Schemas["BatchIn"] = { jobs: [job, { job_type: "clean_up", backoff: {} }] };
export const change: Schemas["ReminderChange"] = { message: "Pay the electricity bill" };
export const key: Schemas["ApiKeyIn"] = { name: "billing", scopes: ["jobs:read"] };
export const dead: operations["listJobs"]["parameters"]["query"] = { status: ["DEAD_LETTER"] };

type Made = paths["/jobs"]["post"]["responses"]["201"]["content"]["application/json"];
export const retriesOf = (made: Made): number | null => made.effective_max_retries;

// @ts-expect-error -- a job has a type
export const untyped: Schemas["JobIn"] = { payload: {} };
// @ts-expect-error -- and no other members
export const odd: Schemas["JobIn"] = { job_type: "send_invoice", colour: "red" };

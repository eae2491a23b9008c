// What a client's author writes against the generated types: each line must compile, and do what it says.
import createClient from "openapi-fetch";
import type { components, operations, paths } from "./api.d.ts";

type Schemas = components["schemas"];

export const job: Schemas["JobIn"] = { job_type: "demo.ok" };
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

declare const process: { env: Record<string, string> };
const client = createClient<paths>({
  baseUrl: process.env.FINMIND_URL,
  headers: { Authorization: `Bearer ${process.env.FINMIND_TOKEN}` },
});

const made = await client.POST("/jobs", { body: job });
if (made.data === undefined) throw new Error(JSON.stringify(made.error));
const params = { path: { job_id: made.data.id }, query: { wait: 30 } };
const found = await client.GET("/jobs/{job_id}", { params });
if (found.data?.status !== "SUCCESS") throw new Error(JSON.stringify(found.data ?? found.error));

const refused = await client.POST("/jobs", { body: { ...job, priority: 11 } });
if (refused.error?.status !== 422) throw new Error(JSON.stringify(refused.data ?? refused.error));

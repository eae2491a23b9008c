"""The floor of `POST /jobs`: FastAPI, a pydantic model, one INSERT on asyncpg's pool, no more."""

import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel


class Body(BaseModel):
    """What the real endpoint takes, at its least."""

    job_type: str
    payload: dict[str, Any]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """A pool as large as a service would have."""
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=10, max_size=10) as pool:
        await pool.execute(
            "CREATE TABLE bare (id bigserial PRIMARY KEY, job_type text, payload jsonb)"
        )
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=201)
async def create(body: Body, request: Request) -> dict[str, int]:
    """One row."""
    row_id = await request.app.state.pool.fetchval(
        "INSERT INTO bare (job_type, payload) VALUES ($1, $2) RETURNING id",
        body.job_type,
        json.dumps(body.payload),
    )
    return {"id": row_id}


if __name__ == "__main__":
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", log_level="warning", access_log=False
    )
    uvicorn.Server(config).run(sockets=[listener])

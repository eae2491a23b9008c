"""FastAPI and SQLAlchemy: a user and the job that welcomes them are one transaction, or nothing."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from finmind_client.transaction import aenqueue

url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://", 1)
engine = create_async_engine(url)
sessions = async_sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "fastapi_users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


class NewUser(BaseModel):
    email: str


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.post("/users", status_code=201)
async def create_user(new: NewUser) -> dict[str, int]:
    try:
        async with sessions.begin() as session:
            session.add(User(email=new.email))
            job = await aenqueue(session, "send_welcome", {"email": new.email})
    except IntegrityError:  # nothing was committed: no second welcome
        raise HTTPException(409, f"{new.email} has an account already") from None
    return {"job_id": job.id}

"""A shop that takes orders, and the jobs that come of them."""

import os
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.jobs import JobContext, PermanentError, enqueue, register_handler
from service.schedules import schedule

WEEK_SECONDS = 7 * 86_400

engine = create_async_engine(os.environ.get("APP_DATABASE_URL", "postgresql+asyncpg://"))
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    receipt_sent: Mapped[bool] = mapped_column(default=False)


class NewOrder(BaseModel):
    email: str


class OrderRef(BaseModel):
    order_id: int


async def send_mail(to: str, text: str) -> None:
    async with httpx.AsyncClient() as client:
        (
            await client.post("https://mail.example.com", json={"to": to, "text": text})
        ).raise_for_status()


async def get_session():
    async with sessions.begin() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]


@app.post("/orders", status_code=202)
async def place_order(new: NewOrder, session: Session):
    order = Order(email=new.email)
    session.add(order)
    await session.flush()
    await enqueue(session, "send_receipt", {"order_id": order.id}, queue="mail")
    told = {"url": "https://crm.example.com/orders", "json": {"order_id": order.id}}
    await enqueue(session, "http.request", told)
    await enqueue(session, "ask_for_review", {"order_id": order.id}, delay_seconds=WEEK_SECONDS)
    return {"order_id": order.id}


@register_handler("send_receipt", payload_model=OrderRef, max_retries=2)
async def send_receipt(payload: OrderRef, ctx: JobContext) -> dict:
    async with sessions.begin() as session:
        order = await session.get(Order, payload.order_id)
        if order is None:
            raise PermanentError(f"there is no order {payload.order_id}")
        await send_mail(order.email, "Thank you")
        order.receipt_sent = True
    ctx.log("receipt sent", to=order.email)
    return {"sent_to": order.email}


@register_handler("ask_for_review", payload_model=OrderRef)
async def ask_for_review(payload: OrderRef) -> None:
    async with sessions() as session:
        order = await session.get(Order, payload.order_id)
        if order is not None:
            await send_mail(order.email, "How was it?")


@schedule("0 6 * * *")
@register_handler("digest")
async def digest(payload, ctx: JobContext) -> None:
    async with sessions() as session:
        orders = await session.scalar(select(func.count()).select_from(Order))
    await send_mail("owner@example.com", f"{orders} orders so far")

"""The handlers of a made-up shop, whose jobs are in the pictures. screenshots.py registers them."""

import asyncio
import random
from typing import Any

from service.jobs import Backoff, JobContext, PermanentError, register_handler

SOON = Backoff(base_seconds=40, factor=2)


@register_handler("send_invoice", max_retries=4, backoff=SOON)
async def send_invoice(payload: dict[str, Any], ctx: JobContext) -> dict[str, Any]:
    """Mails an invoice; the mail server of one customer refuses."""
    ctx.log("rendered", pages=payload["pages"])
    if payload["invoice"] % 9 == 0:
        raise ConnectionError("smtp.customer.example refused the connection")
    await asyncio.sleep(random.uniform(0.01, 0.2))
    ctx.log("sent", to=payload["to"])
    return {"message_id": f"<{payload['invoice']}@mail.example>"}


@register_handler("sync_contact", max_retries=0)
async def sync_contact(payload: dict[str, Any], ctx: JobContext) -> None:
    """Writes a contact to another system; some lack what is needed."""
    ctx.log("found in the CRM", contact=payload["contact"])
    customer(payload)


def customer(payload: dict[str, Any]) -> str:
    """The customer that a contact belongs to."""
    contact = {"contact": payload["contact"]}
    if payload["contact"] % 5:
        contact["customer_id"] = 17
    return str(contact["customer_id"])


@register_handler("resize_image", max_retries=0)
def resize_image(payload: dict[str, Any]) -> None:
    """Shrinks a picture; some are none."""
    if payload["image"] % 7 == 0:
        raise ValueError(f"cannot identify image file '/uploads/{payload['image']}.png'")


@register_handler("charge_card")
async def charge_card(payload: dict[str, Any]) -> None:
    """Charges a card; some are declined."""
    if payload["amount"] % 4 == 0:
        raise PermanentError(f"card declined for order {payload['order']}: insufficient funds")


@register_handler("render_report", timeout=3600)
async def render_report(payload: dict[str, Any], ctx: JobContext) -> None:
    """Takes long, and says how far it is."""
    for part in range(1, 200):
        await ctx.progress(0.3 + part / 300, f"chapter {part} of 200")
        ctx.log(f"chapter {part} rendered", seconds=3.0)
        await asyncio.sleep(3)


@register_handler("import_feed", max_retries=0)
def import_feed(payload: dict[str, Any], ctx: JobContext) -> int:
    """Reads the feed of a supplier; suppliers are what they are."""
    ctx.log("reading", feed=payload["feed"])
    number = int(payload["feed"])
    match number % 12:
        case 1:
            raise TimeoutError(f"feed-{number}.example did not answer within 30 s")
        case 2 | 3:
            return int("12,50")
        case 4:
            return len(b"caf\xe9".decode())
    return number % 40

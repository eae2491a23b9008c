"""What the service runs for the other examples: `HANDLER_MODULES=examples.welcome`."""

from pydantic import BaseModel

from service.jobs import register_handler


class Welcome(BaseModel):
    email: str


@register_handler("send_welcome", payload_model=Welcome)
async def send_welcome(payload: Welcome) -> dict[str, str]:
    return {"sent_to": payload.email}  # here you would send it

"""Set the limits of a queue, by the form on its page."""

from dataclasses import replace

from fastapi import Request
from starlette.responses import Response

from service.api.actor import acting
from service.api.session import AppSettings, Session
from service.dashboard import queue_form
from service.dashboard.access import Operator
from service.dashboard.links import queue_href
from service.dashboard.pages.job_actions import reason_of
from service.dashboard.pages.queues import QueueName, Sent, one_queue
from service.dashboard.rendering import flash, render, see
from service.dashboard.route import page_router
from service.errors import Conflict, InvalidInput
from service.jobs.queues import configure_queue

router = page_router()


@router.post("/queues/queue")  # the address of its page, which a refusal shows again
async def set_limits(
    request: Request,
    operator: Operator,
    name: QueueName,
    session: Session,
    settings: AppSettings,
    sent: Sent,
) -> Response:
    """Set all limits of a queue to what the form holds, or show it again with what is wrong."""
    given = {box: str(sent.get(box, "")) for box in queue_form.BOXES}
    try:
        await configure_queue(
            session,
            name,
            actor=acting(request, operator),
            reason=reason_of(sent),
            **queue_form.read(given),
        )
    except (Conflict, InvalidInput) as error:
        page = await one_queue(session, name, settings)
        page = replace(page, given=given, refused=error.detail)
        return render(request, "queue.html", page=page, status=error.status)
    words = f"The limits of {name} are set: they hold in every process within 2 seconds"
    return flash(see(request, queue_href(name)), words)

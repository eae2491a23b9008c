"""Who stands in the audit log for a request."""

from fastapi import Request

from service.api.problems import request_id_of
from service.audit import Actor
from service.auth.principal import Principal


def acting(request: Request, principal: Principal) -> Actor:
    """The principal, with the id and the address of the request that it makes."""
    address = None if request.client is None else request.client.host
    return Actor(principal.subject, request_id_of(request), address)

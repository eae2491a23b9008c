"""What may be called: destinations by name, port and address, and what settings allow beside the internet."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.settings import Settings
from service.settings.targets import AllowedTarget
from service.targets.addresses import kind_of, leads_to_metadata
from service.targets.url import Address, Destination


class TargetRefused(Exception):
    """This target may not be called; the message names the setting that would allow it."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules of one process, made of its settings."""

    allowed: tuple[AllowedTarget, ...]
    ports: tuple[range, ...]

    @classmethod
    def of(cls, settings: Settings) -> "Guard":
        """The rules that the settings make."""
        return cls(settings.allowed_targets, settings.target_port_ranges)

    def check(self, destination: Destination) -> None:
        """Refuse a destination for its port, or for its host where that is an address.

        Raises:
            TargetRefused: it is refused.
        """
        if not self._port_allowed(destination):
            raise TargetRefused(
                f"{destination}: the port {destination.port} is not among TARGET_PORTS, nor allowed for "
                "this host by TARGET_ALLOWED"
            )
        if destination.address is not None:
            self.check_addresses(destination, [destination.address])

    def check_addresses(self, destination: Destination, addresses: Iterable[Address]) -> None:
        """Refuse a destination if one of its addresses may not be called.

        Raises:
            TargetRefused: it is refused. The message does not tell the address: it would map the network.
        """
        for address in addresses:
            if leads_to_metadata(address):
                raise TargetRefused(
                    f"{destination} leads to an address of a cloud's metadata, which is never called"
                )
            kind = kind_of(address)
            if kind is not None and not self._address_allowed(destination, address):
                raise TargetRefused(
                    f"{destination} leads to an address that is {kind}: only those on the public internet "
                    "are called, and what TARGET_ALLOWED names (as a host, host:port or network)"
                )

    def _port_allowed(self, destination: Destination) -> bool:
        if any(destination.port in ports for ports in self.ports):
            return True
        own = destination.address
        return any(
            entry.port == destination.port
            and (_names(entry, destination.host) or (own is not None and _holds(entry, own)))
            for entry in self.allowed
        )

    def _address_allowed(self, destination: Destination, address: Address) -> bool:
        return any(
            entry.port in {None, destination.port}
            and (_names(entry, destination.host) or _holds(entry, address))
            for entry in self.allowed
        )


def _names(entry: AllowedTarget, host: str) -> bool:
    if entry.host is None:
        return False
    return host.endswith(entry.host) if entry.host.startswith(".") else host == entry.host


def _holds(entry: AllowedTarget, address: Address) -> bool:
    # An address in the form of another one is allowed as it is written, and in no other way.
    return entry.network is not None and address in entry.network

"""The link that signs a developer in to the dashboard once, printed by `make run`."""

import hmac
import secrets


class SignInLink:
    """One code, kept in this process alone, that is good for one sign-in."""

    def __init__(self) -> None:
        self._code: str | None = None

    def renew(self) -> str:
        """Make a code; the one before holds no longer."""
        self._code = secrets.token_urlsafe(16)
        return self._code

    def use(self, code: str) -> bool:
        """Whether this is the code; it is good no more after that."""
        if self._code is None or not hmac.compare_digest(self._code.encode(), code.encode()):
            return False
        self._code = None
        return True

"""The dashboard in this process, as the tests of the API have it."""

from tests.api.conftest import api_settings, app, auth, client

__all__ = ["api_settings", "app", "auth", "client"]

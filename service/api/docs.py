"""Swagger UI at `/docs`, from files in the environment: it works without the internet.

The assets are those of fastapi-offline. The page is made here, because it needs a policy like any
route, and a Content-Security-Policy that names its one inline script by hash.
"""

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

import fastapi_offline
from fastapi import Depends, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from service.auth.dependencies import public

DOCS_PATH: Final = "/docs"
OPENAPI_PATH: Final = "/openapi.json"
ASSETS_PATH: Final = "/docs/assets"
ASSETS: Final = Path(fastapi_offline.__file__).parent / "static"

_INLINE_SCRIPT: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_SWAGGER_PARAMETERS: Final = {
    "persistAuthorization": True,
    "displayRequestDuration": True,
    "docExpansion": "list",
    "filter": True,
}


def add_docs(app: FastAPI) -> None:
    """Serve `/docs`, its assets and `/openapi.json`, and lead there from `/`."""
    app.mount(ASSETS_PATH, StaticFiles(directory=ASSETS), name="docs-assets")

    @app.head(DOCS_PATH, include_in_schema=False, dependencies=[Depends(public)])
    @app.get(DOCS_PATH, include_in_schema=False, dependencies=[Depends(public)])
    async def docs(request: Request) -> HTMLResponse:
        """The API's description as a page to try it on."""
        page, policy = _page(app.title, _root(request))
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.head("/", include_in_schema=False, dependencies=[Depends(public)])
    @app.get("/", include_in_schema=False, dependencies=[Depends(public)])
    async def front_door(request: Request) -> RedirectResponse:
        """Where a browser goes that was given the address alone."""
        return RedirectResponse(f"{_root(request)}{DOCS_PATH}")

    @app.head(OPENAPI_PATH, include_in_schema=False, dependencies=[Depends(public)])
    @app.get(OPENAPI_PATH, include_in_schema=False, dependencies=[Depends(public)])
    async def openapi() -> dict[str, object]:
        """The API's description in OpenAPI 3.1."""
        return app.openapi()


def _root(request: Request) -> str:
    """The path that a proxy serves the application under."""
    return str(request.scope.get("root_path", "")).rstrip("/")


@lru_cache(maxsize=8)
def _page(title: str, root: str) -> tuple[str, str]:
    response = get_swagger_ui_html(
        openapi_url=f"{root}{OPENAPI_PATH}",
        title=title,
        swagger_js_url=f"{root}{ASSETS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{ASSETS_PATH}/swagger-ui.css",
        swagger_favicon_url=f"{root}{ASSETS_PATH}/favicon.png",
        swagger_ui_parameters=_SWAGGER_PARAMETERS,
    )
    page = bytes(response.body).decode()
    hashes = " ".join(_script_hash(script) for script in _INLINE_SCRIPT.findall(page))
    policy = (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _script_hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"

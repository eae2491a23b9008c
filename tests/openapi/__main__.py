"""The OpenAPI document, held against the tools of those who read it: `make openapi`.

The standard's validator, redocly's and spectral's linters, and clients generated in Python and
TypeScript, which must type-check, and run a job by a service that is started for them. Node.js comes out of a
wheel; where npm cannot install, what needs it is skipped, and said to be.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from service.app import create_app
from service.settings import Environment, Settings
from tests.openapi.served import served

HERE: Final = Path(__file__).parent
SECONDS: Final = 600
GENERATED: Final = "finmind_api"
_TYPESCRIPT: Final = ("--target", "es2022", "--lib", "es2022,dom", "--allowImportingTsExtensions")


class Failed(Exception):
    """A tool found something."""


class Tools:
    """The environment that `make` has made, and the place beside it for what is generated."""

    def __init__(self, environment: Path) -> None:
        self.binaries = environment.resolve() / "bin"
        self.place = environment.resolve() / "work"
        self.place.mkdir(exist_ok=True)
        self.service: Mapping[str, str] = {}
        """Where the service is that clients call, for their environment."""

    def python(self, module: str, *arguments: str) -> None:
        """Run a module."""
        self._run(str(self.binaries / "python"), "-m", module, *arguments)

    def node(self, tool: str, *arguments: str) -> None:
        """Run a tool that npm has installed."""
        self._run(str(self.place / "node_modules" / ".bin" / tool), *arguments)

    def run_node(self, script: str) -> None:
        """Run a script; Node.js leaves its types out."""
        self._run(str(self.binaries / "node"), script)

    def npm(self, *arguments: str) -> None:
        """Run npm."""
        self._run(str(self.binaries / "npm"), *arguments)

    def _run(self, *command: str) -> None:
        print(f"  {Path(command[0]).name} {' '.join(command[1:])}", flush=True)
        path = f"{self.binaries}{os.pathsep}{os.environ.get('PATH', '')}"
        ended = subprocess.run(
            command,
            cwd=self.place,
            env=os.environ
            | self.service
            | {"PATH": path, "REDOCLY_TELEMETRY": "off", "CI": "true"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if ended.returncode != 0:
            raise Failed(f"{ended.stdout}\n{ended.stderr}".strip()[-5000:])


def write_document(path: Path) -> None:
    """Write the document of an application that needs no database to describe itself."""
    settings = Settings(
        environment=Environment.TEST,
        database_url=SecretStr("postgresql://nobody@127.0.0.1:1/none"),
        jwt_secret=SecretStr("a-secret-that-signs-nothing-at-all"),
    )
    path.write_text(json.dumps(create_app(settings).openapi(), indent=1), encoding="utf-8")


def check_python(tools: Tools) -> None:
    """Validate the document, then generate, type-check and run a Python client.

    Raises:
        Failed: something is wrong with the document.
    """
    tools.python("openapi_spec_validator", "openapi.json")
    shutil.copy(HERE / "client.py", tools.place)
    # It knows no JSON lines: they are text to it.
    options = "post_hooks: []\ncontent_type_overrides:\n  application/x-ndjson: text/plain\n"
    (tools.place / "python.yaml").write_text(options, encoding="utf-8")
    flags = ["--meta", "none", "--overwrite", "--fail-on-warning", "--config", "python.yaml"]
    tools.python(
        "openapi_python_client", "generate", "--path", "openapi.json",
        "--output-path", GENERATED, *flags,
    )  # fmt: skip
    tools.python("mypy", "--strict", "client.py", GENERATED)
    tools.python("client")


def install_node(tools: Tools) -> bool:
    """Have npm install what is locked; False where it cannot."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, tools.place)
    try:
        tools.npm("ci", "--ignore-scripts", "--no-audit", "--no-fund")
    except (Failed, OSError) as error:
        print(f"skipped: redocly, spectral and TypeScript, since npm cannot install:\n{error}")
        return False
    return True


def check_node(tools: Tools) -> None:
    """Lint the document, then generate, type-check and run a TypeScript client.

    Raises:
        Failed: something is wrong with the document.
    """
    for name in ("client.mts", "redocly.yaml", "spectral.yaml"):
        shutil.copy(HERE / name, tools.place)
    tools.node("redocly", "lint", "openapi.json", "--config", "redocly.yaml")
    tools.node("spectral", "lint", "openapi.json", "--ruleset", "spectral.yaml", "-F", "warn")
    tools.node("openapi-typescript", "openapi.json", "--output", "api.d.ts")
    tools.node("tsc", "--noEmit", "--strict", "--module", "nodenext", *_TYPESCRIPT, "client.mts")
    tools.run_node("client.mts")


def main() -> int:
    """Run every check; the exit code."""
    tools = Tools(Path(sys.argv[1]))
    write_document(tools.place / "openapi.json")
    try:
        with served() as tools.service:
            check_python(tools)
            if install_node(tools):
                check_node(tools)
    except Failed as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

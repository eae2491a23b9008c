"""`python -m service`: see `service.cli`."""

import sys

if __name__ == "__main__":
    try:
        from service.cli import main
    except ModuleNotFoundError as error:
        sys.exit(
            f"error: {sys.executable} has no package {error.name!r}, which the service needs: use the "
            "Python of its environment, .venv/bin/python -m service (`make run` makes it)"
        )
    sys.exit(main())

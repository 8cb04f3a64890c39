"""`python -m harness VERB`."""

import sys

try:
    from harness.cli import main

    if __name__ == "__main__":
        sys.exit(main())
except ModuleNotFoundError as error:
    if str(error.name).startswith("harness"):
        raise
    print(
        f"error: {sys.executable} has no package {error.name}: run .venv/bin/python -m harness (`make repro` and "
        "`make test` make .venv), or install requirements.lock into this Python",
        file=sys.stderr,
    )
    sys.exit(2)

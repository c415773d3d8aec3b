"""``masche`` and ``python -m masche``: the command line, or the one line that installs what it needs."""

import importlib.util
import sys

_NEEDED = ("click", "rich", "yaml", "pydantic", "starlette", "uvicorn")


def main() -> None:
    """Run the command line; without the extras say how to get them and exit with 2."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        sys.stderr.write("the masche command needs more than the library: pip install 'masche[mesh]'\n")
        sys.exit(2)
    from masche.cli.main import run

    run()


if __name__ == "__main__":
    main()

"""Runs one benchmark by name: ``make bench NAME=endpoint-propagation``. Without a name it lists them."""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.stem.replace("_", "-") for path in HERE.glob("*.py") if path.stem not in {"run", "plots"})


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in names():
        print(f"{'no benchmark ' + name if name else 'name one'}: NAME={'|'.join(names())}", file=sys.stderr)
        return 2
    sys.argv = [name, *sys.argv[2:]]
    runpy.run_path(str(HERE / f"{name.replace('-', '_')}.py"), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())

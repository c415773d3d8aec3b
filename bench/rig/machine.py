"""What a figure was measured on, and at which commit."""

import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def commit() -> str:
    """The commit that is checked out, with a plus sign when files differ from it."""
    found = git("rev-parse", "--short=10", "HEAD")
    is_changed = bool(git("status", "--porcelain", "--untracked-files=no", "--", "src", "bench", ":!bench/results"))
    return f"{found}+" if is_changed else found


def git(*words: str) -> str:
    answer = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=ROOT)
    return answer.stdout.strip()


def machine() -> str:
    """The machine in a line: what a reader needs in order to judge a figure."""
    return (
        f"{os.cpu_count()} cores ({_processor()}), {_memory_gb():.0f} GB, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, load before {os.getloadavg()[0]:.1f}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def processor_seconds() -> float:
    """What all processors together have worked since the machine was started, on whatever."""
    user, nice, system, _idle, _waiting, *interrupts = map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + sum(interrupts[:2])) / os.sysconf("SC_CLK_TCK")

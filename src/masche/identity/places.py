"""Where the parts of masche on one machine find each other: under one data folder, the same for all of them."""

import os
from pathlib import Path


def default_data() -> Path:
    """Where state is kept unless someone says otherwise."""
    return Path("/var/lib/masche") if os.geteuid() == 0 else Path.home() / ".local" / "share" / "masche"


def control_socket(data: Path) -> Path:
    """Where the control plane of this very machine listens."""
    return data / "control.sock"


def machine_folder(data: Path) -> Path:
    """What this machine was given when it joined."""
    return data / "machine"


def credential(data: Path) -> Path:
    """Its machine credential, key and chain together."""
    return machine_folder(data) / "credential.json"


def credential_lock(data: Path) -> Path:
    """Held by whoever joins or renews, so that of all processes of a machine one does."""
    return machine_folder(data) / "lock"

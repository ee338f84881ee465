"""Which process this is, and whether another one still lives."""

import os
import re
import socket


def host() -> str:
    """Return this machine's name, as file names can hold it."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "localhost"


def is_alive(process: int) -> bool:
    """Whether a process of this machine is still there."""
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True

"""Where figures come from."""

import os
import platform
from importlib.metadata import version
from typing import Any


def surroundings(*packages: str) -> dict[str, Any]:
    """The machine and the versions that figures were made with.

    Args:
        packages: Those whose version may matter.
    """
    return {
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "processor": platform.machine()},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }

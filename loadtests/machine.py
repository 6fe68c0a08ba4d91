"""Which machine a bench ran on, in words that name no host: processor, cores, memory, kernel, Python."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def description() -> dict[str, str]:
    """What to write at the head of a report."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{_memory_kb() / 2**20:.0f} GB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": platform.python_version(),
        "load at the start": " ".join(f"{value:.1f}" for value in os.getloadavg()),
    }


def name() -> str:
    """The machine's name in a report's folder: cores and architecture."""
    return f"{os.cpu_count()}-core-{platform.machine()}"


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_kb() -> float:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            return float(line.split()[1])
    return 0.0


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:  # another system than Linux
        return []

"""Environments with other builds of onnxruntime, in a cache folder: `python tests/providers.py` makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "eetoolkit-tests" / "providers"
PACKAGES = {
    "openvino": ("onnxruntime-openvino",),  # a build of onnxruntime with the provider in it
    "plugin": ("onnxruntime", "onnxruntime-ggml"),  # a library that onnxruntime loads; it runs on any CPU
}
_DEVICE = ("numpy", "msgspec")


def python_of(name: str) -> Path:
    """Returns the interpreter of an environment, whether it is there or not."""
    return CACHE / name / "bin/python"


def make(name: str) -> None:
    """Makes an environment."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(CACHE / name)], check=True)
    pip = [str(python_of(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *_DEVICE, *PACKAGES[name]], check=True)


if __name__ == "__main__":
    for each in PACKAGES:
        if not python_of(each).exists():
            print(f"== {CACHE / each}")
            make(each)

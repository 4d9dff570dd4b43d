"""The wheel that a device gets: what is installed here, without what makes bundles of networks."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from importlib.metadata import metadata
from pathlib import Path

import eetoolkit
import eetoolkit_runtime

_LEFT_OUT = {"__pycache__", "checkpoints"}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same code gives the same wheel
_HEAD = "Wheel-Version: 1.0\nGenerator: eetoolkit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def requirements() -> tuple[str, ...]:
    """Returns what the base install needs."""
    return tuple(needed for needed in metadata("eetoolkit").get_all("Requires-Dist") or () if "extra ==" not in needed)


def device_wheel() -> tuple[str, bytes]:
    """Returns the wheel's file name and what it holds."""
    told = metadata("eetoolkit")
    version = told["Version"]
    info = f"eetoolkit-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {needed}\n" for needed in requirements())
    python = f"Requires-Python: {told['Requires-Python']}\n"
    about = f"Metadata-Version: 2.1\nName: eetoolkit\nVersion: {version}\n{python}{needs}"
    files = {**_code(), f"{info}/METADATA": about.encode(), f"{info}/WHEEL": _HEAD.encode()}
    record = "".join(f"{name},sha256={_digest(held)},{len(held)}\n" for name, held in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, held in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, held, zipfile.ZIP_DEFLATED)
    return f"eetoolkit-{version}-py3-none-any.whl", packed.getvalue()


def _code() -> dict[str, bytes]:
    found = {}
    for package in (eetoolkit, eetoolkit_runtime):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root.parent)
            if path.is_file() and not _LEFT_OUT & set(inside.parts):
                found[inside.as_posix()] = path.read_bytes()
    return found


def _digest(held: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(held).digest()).decode().rstrip("=")

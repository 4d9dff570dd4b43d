"""The package of `runtime/web` as tests build it: once, by npm and esbuild, where the machine has Node."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "runtime" / "web"
MODULES = FOLDER / "node_modules"
STATIC = ROOT / "eetoolkit" / "serve" / "static"
BUILT = FOLDER / "build"
_SOURCES = (FOLDER / "src", FOLDER / "programs", ROOT / "eetoolkit" / "serve" / "page")
_LONGEST_S = 600


def why_not() -> str:
    """Returns why it cannot be built here; empty where it can."""
    missing = [tool for tool in ("node", "npm") if shutil.which(tool) is None]
    return f"runtime/web is not tested: there is no {' and no '.join(missing)}" if missing else ""


def build() -> Path:
    """Returns the folder with the programs, up to date; npm fetches the lock file's packages where they are missing."""
    BUILT.mkdir(exist_ok=True)
    with (BUILT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of the processes of `pytest -n` one builds, and the others wait
        if not MODULES.is_dir():
            run("npm", "ci")
        stamp = BUILT / ".built"
        if not stamp.exists() or stamp.stat().st_mtime <= _newest():
            began = _newest()
            run("node", "build.mjs")
            stamp.touch()
            assert _newest() == began, "the sources changed while they were built"
    return BUILT


def run(*command: str | Path) -> str:
    """Returns what a command prints that must end well, in the package's folder."""
    done = subprocess.run(
        [*map(str, command)], cwd=FOLDER, capture_output=True, text=True, timeout=_LONGEST_S, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def _newest() -> float:
    files = [path for folder in _SOURCES if folder.exists() for path in folder.rglob("*")]
    files += [FOLDER / name for name in ("build.mjs", "package-lock.json", "tsconfig.json", "tsconfig.build.json")]
    return max(path.stat().st_mtime for path in files if path.is_file())

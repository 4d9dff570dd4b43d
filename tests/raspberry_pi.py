"""Runs the commands of `docs/raspberry-pi.md`: those of the board in the emulated arm64 root, those of the host here.

A block says in its first line where it belongs. Camera and microphone are stand-ins, `scp` copies between two folders,
and what changes a system or needs a board is left out: `LEFT_OUT`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import arm64_root
import numpy as np
from board import lay_out_camera, lay_out_microphone
from debian import UnavailableError
from pages import ROOT, blocks

import eetoolkit as ee
from eetoolkit.zoo import branchynet, digits

LEFT_OUT = ("ssh", "sudo", "uname", "journalctl")
COPY = """#!/bin/sh
# scp FROM... TO, where pi@raspberrypi.local is a folder
for each; do
    shift
    case "$each" in
        -r) ;;
        pi@raspberrypi.local:*) set -- "$@" "{board}/${{each#*:}}" ;;
        *) set -- "$@" "$each" ;;
    esac
done
exec cp -r "$@"
"""
HOST, BOARD = "# on the host\n", "# on the board\n"
ENVIRONMENT = "[ ! -e ee/bin/activate ] || . ee/bin/activate\n"
LONGEST_S = 1200


def lay_out(folder: Path) -> None:
    """Makes the folder of the host, a clone with what the quickstart makes, the board's, and two with programs."""
    host, board, programs, boards = (folder / name for name in ("host", "board", "programs", "board-programs"))
    shutil.copytree(ROOT, host, ignore=shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "node_modules"))
    for each in (board, programs, boards):
        each.mkdir()
    images, held_out = digits.digits("test").images / 16, digits.digits("validation")
    ee.export(branchynet.load(), images[:1], host / "digits.ee", labels=digits.LABELS, golden_inputs=images[:8])
    np.save(host / "digits.npy", images[:3])
    np.savez(host / "val.npz", image=held_out.images / 16, labels=held_out.labels)
    lay_out_camera(board, "objects.ee")
    lay_out_microphone(board)
    (board / "arecord").rename(boards / "arecord")
    (boards / "python3").symlink_to(arm64_root.python())
    _program(programs / "scp", COPY.format(board=board))
    for name in LEFT_OUT:
        _program(programs / name, f'#!/bin/sh\necho "left out: {name} $*"\n')


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run(text: str, folder: Path) -> str | None:
    """Runs a block, prints what it prints, and returns what is wrong with it; None: nothing."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    programs = [str(folder / "programs")]
    if text.startswith(HOST):
        where = folder / "host"
        programs += [str(Path(sys.executable).parent), os.environ["PATH"]]
        environment["PYTHONPATH"] = os.pathsep.join(str(where / room) for room in ("", "exporters", "runtime"))
    elif text.startswith(BOARD):
        where = folder / "board"
        programs += [str(folder / "board-programs"), "/usr/bin", "/bin"]
        environment |= {"HOME": str(where), "QEMU_CPU": "cortex-a72"}
    else:
        return "says neither `# on the host` nor `# on the board`"
    print(text, flush=True)
    environment["PATH"] = os.pathsep.join(programs)
    command = ["timeout", str(LONGEST_S), "bash", "-e", "-c", ENVIRONMENT + text if where.name == "board" else text]
    done = subprocess.run(command, cwd=where, env=environment, check=False, stderr=subprocess.STDOUT)
    return f"ended with {done.returncode}" if done.returncode else None


def main() -> int:
    """Runs the page; returns whether a block failed."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            lay_out(folder)
        except UnavailableError as error:
            print(f"\n!! THE PAGE IS SKIPPED: packages for arm64 cannot be had: {error}\n", file=sys.stderr)
            return 0
        for language, text in blocks(ROOT / "docs" / "raspberry-pi.md"):
            if language == "sh" and (wrong := run(text, folder)):
                print(f"{wrong}:\n{text}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Packages of Debian unpacked into folders, without root rights and without installing anything.

They come from where this machine's own come from, and are fetched again only when there are newer ones.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

SOURCES, INSTALLED = Path("/etc/apt"), Path("/var/lib/dpkg/status")
MADE_OF, RECIPE = ".made-of", ("debian.py", "arm64_root.py")
"""The file that says what a folder was made of, and what makes them."""


class UnavailableError(Exception):
    """The packages cannot be had, for this reason."""


def sources(texts: Iterable[tuple[str, str]], codename: str, suite: str) -> Iterator[tuple[str, str]]:
    """Yields those of the files' entries that are of Debian's own suites, with another suite in place of the codename.

    Args:
        texts: Names and texts of apt's source lists, one line an entry (`.list`) or a paragraph (`.sources`).
        codename: The suite of this machine.
        suite: The one wanted.
    """
    own = re.compile(rf"(?<![\w/-]){re.escape(codename)}(?=[\s/-])")
    for name, text in texts:
        entries = text.splitlines() if name.endswith(".list") else re.split(r"\n\s*\n", text)
        live = [[line for line in entry.splitlines() if not line.lstrip().startswith("#")] for entry in entries]
        for number, lines in enumerate(live):
            entry = "\n".join(lines) + "\n"
            if own.search(entry):
                yield f"{number}-{name}", own.sub(suite, entry)


class Apt:
    """This machine's apt with a state of its own: nothing is installed, and nothing here is changed.

    Attributes:
        home: Where it keeps its state.
        architecture: Whose packages it takes; None: this machine's own, as far as they are not installed here.
        suite: Of which release; None: of this machine's own.
        here: This machine's own architecture.
    """

    def __init__(self, home: Path, architecture: str | None = None, suite: str | None = None) -> None:
        self.home, self.suite = home, suite
        self.here = output("dpkg", "--print-architecture").strip()
        options = {
            "Dir::State": home, "Dir::Cache": home,
            "Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": home / "sources",
            "Acquire::Languages": "none", "Acquire::Retries": 2, "APT::Sandbox::User": "",
            "Dir::State::status": INSTALLED,
        }  # fmt: skip
        if architecture is not None:
            (home / "status").parent.mkdir(parents=True, exist_ok=True)
            (home / "status").touch()
            options |= {
                "APT::Architecture": architecture, "APT::Architectures": f"{architecture},{self.here}",
                "Dir::State::status": home / "status",
            }  # fmt: skip
        given = [part for key, value in options.items() for part in ("--option", f"{key}={value}")]
        self._command = ["apt-get", "-qq", *given]

    def update(self) -> None:
        """Fetches the lists of packages."""
        release = platform.freedesktop_os_release()
        if release.get("ID") != "debian":
            raise UnavailableError(f"packages come from a Debian's own source, this is {release.get('PRETTY_NAME')}")
        shutil.rmtree(self.home / "sources", ignore_errors=True)
        for made in ("sources", "lists/partial", "archives/partial"):
            (self.home / made).mkdir(parents=True, exist_ok=True)
        paths = [SOURCES / "sources.list", *(SOURCES / "sources.list.d").iterdir()]
        texts = [
            (path.name, path.read_text()) for path in paths if path.suffix in (".list", ".sources") and path.exists()
        ]
        own = release.get("VERSION_CODENAME", "sid")
        for name, text in sources(texts, own, self.suite or own):
            (self.home / "sources" / name).write_text(text)
        output(*self._command, "update", "--error-on=any")

    def unpack(self, target: Path, finish: Callable[[Path], None], *command: str) -> None:
        """Unpacks what a command fetches into a folder, to be finished there, unless it was made of just that."""
        files = sorted(line.split()[1] for line in output(*self._command, "--print-uris", *command).splitlines())
        archives = self.home / "archives"

        def fill(fresh: Path) -> None:
            output(*self._command, *command, cwd=archives)
            for name in files:
                output("dpkg-deb", "--extract", str(archives / name), str(fresh))
                (archives / name).unlink()
            finish(fresh)

        renew(target, files, fill)


def renew(target: Path, names: list[str], fill: Callable[[Path], None]) -> None:
    """Fills a folder anew and then puts it in place, unless it was filled from these names in the same way."""
    recipe = b"".join(Path(__file__).with_name(name).read_bytes() for name in RECIPE)
    text = "\n".join([*names, hashlib.sha256(recipe).hexdigest()]) + "\n"
    stamp = target / MADE_OF
    if stamp.is_file() and stamp.read_text() == text:
        return
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    fill(fresh)
    (fresh / stamp.name).write_text(text)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def kept(targets: list[Path], make: Callable[[], None]) -> None:
    """Makes folders; where that cannot be done, earlier ones will do, and it says so."""
    try:
        make()
    except (UnavailableError, subprocess.CalledProcessError, OSError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        if not all((target / MADE_OF).is_file() for target in targets):
            raise UnavailableError(reason) from error
        print(
            f"{targets[0].name}: not asked for newer packages ({reason}); those of the last time are taken",
            file=sys.stderr,
        )


def output(*command: str, cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout

"""`eetoolkit serve`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eetoolkit.cli import terminal
from eetoolkit.cli.options import json_option, overwrite_option
from eetoolkit.cli.verb import Verb

if TYPE_CHECKING:
    from eetoolkit.cli.serve_lines import Mode, Show
    from eetoolkit.serve.certificate import Certificate
    from eetoolkit.serve.onnxruntime_web import Asset
    from eetoolkit.serve.site import Shelf

_PORTS: Mapping[Mode, tuple[int, ...]] = {"https": (8443,), "http": (8000,), "localhost": (8000,)}
_LIVE = ("lan", "http", "port", "hosts", "open_", "no_qr")


def _hosts(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    from eetoolkit.serve.addresses import checked_host

    try:
        return tuple(map(checked_host, given))
    except ValueError as error:
        raise click.BadParameter(f"{error}, expected a name or an IPv4 address, without a port", ctx, param) from error


@click.command(
    cls=Verb,
    short_help="Open a bundle in a phone's browser: verify, profile, try it.",
    examples=(
        "eetoolkit serve digits.ee",
        "eetoolkit serve digits.ee --lan",
        "eetoolkit serve digits.ee --export page",
    ),
    groups={
        "Who can open it": ("lan", "http", "port", "hosts"),
        "What to write": ("profiles", "folder", "overwrite"),
        "onnxruntime for browsers": ("ort",),
        "What to show": ("no_qr", "open_"),
    },
)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option("--lan", is_flag=True, help="Serve to your network, by https; default: to this computer alone.")
@click.option("--http", is_flag=True, help="With --lan: without https; the page then has one thread and no camera.")
@click.option("--port", type=click.IntRange(1, 65535), help="Default: a free one from 8443 (https) or 8000 (http) on.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    callback=_hosts,
    metavar="NAME",
    help="With --lan: a name or address of this computer that the network knows beside those found. Repeatable.",
)
@click.option(
    "--profiles",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where profiles that phones send are kept; default: profiles.",
)
@click.option(
    "--onnxruntime-web",
    "ort",
    metavar="FILE.tgz",
    help="The package onnxruntime-web, or its folder `dist`; default: npm fetches it once.",
)
@click.option(
    "--export", "folder", metavar="FOLDER", help="Write the page and the bundles as files for any web server, and end."
)
@overwrite_option
@click.option("--no-qr", is_flag=True, help="Print no QR code.")
@click.option("--open", "open_", is_flag=True, help="Open the page in this computer's browser.")
@json_option
@click.pass_context
def serve(  # noqa: PLR0913 - one for each option
    ctx: click.Context,
    *,
    bundles: tuple[str, ...],
    lan: bool,
    http: bool,
    port: int | None,
    hosts: tuple[str, ...],
    profiles: Path | None,
    ort: str | None,
    folder: str | None,
    overwrite: bool,
    no_qr: bool,
    open_: bool,
    as_json: bool,
) -> None:
    """Serve a page on which a browser verifies BUNDLE, profiles it, and runs pictures.

    Profiles come back as files. Whoever knows the address can open the page while this runs; it has a secret that is
    new each time. Nothing is sent to any other computer. Ctrl-C ends it.
    """
    _check_usage(ctx.params)
    if folder is not None:
        _export(bundles, folder, ort, overwrite=overwrite, as_json=as_json)
        return
    mode: Mode = "localhost" if not lan else "http" if http else "https"
    packages = ("starlette", "uvicorn", *(["segno"] if lan else []), *(["cryptography"] if mode == "https" else []))
    for package in packages:  # what is missing is said before any work
        importlib.import_module(package)
    from eetoolkit.cli.serve_lines import JsonLines, TextLines

    show = JsonLines() if as_json else TextLines(qr=not no_qr)
    _serve(bundles, _Settings(mode, port, hosts, profiles or Path("profiles"), ort, show, open_page=open_))


def _check_usage(given: Mapping[str, Any]) -> None:
    """Refuses options that do not go together."""
    if given["folder"] is not None:
        for name in (*_LIVE, "profiles"):
            if given[name]:
                option = {"hosts": "host", "open_": "open", "no_qr": "no-qr"}.get(name, name)
                raise click.UsageError(f"--{option} does not go with --export, which serves nothing")
    elif given["overwrite"]:
        raise click.UsageError("--overwrite goes with --export; profiles never replace each other")
    for name, option in (("http", "http"), ("hosts", "host")):
        if given[name] and not given["lan"] and given["folder"] is None:
            raise click.UsageError(f"--{option} goes with --lan")


def _opened(bundles: Sequence[str]) -> list[Shelf]:
    from eetoolkit.serve.site import Shelf

    with terminal.progress() as tell:
        found = []
        for number, bundle in enumerate(bundles):
            tell(f"checking {bundle}", number, len(bundles))
            found.append(Shelf(bundle))
    return found


def _assets(source: str | None, tell: terminal.Tell) -> dict[str, Asset]:
    from eetoolkit.serve.onnxruntime_web import assets

    return assets(source, tell=tell, note=lambda line: terminal.complain("note:", "cyan", line))


def _export(bundles: Sequence[str], folder: str, ort: str | None, *, overwrite: bool, as_json: bool) -> None:
    from eetoolkit.serve.export import check_folder, export_site
    from eetoolkit.serve.site import site_of
    from eetoolkit_runtime.files.paths import shown
    from eetoolkit_runtime.printable import spell_size

    check_folder(folder, overwrite=overwrite)
    shelves = _opened(bundles)
    with terminal.progress() as tell:
        site = site_of(shelves, _assets(ort, tell), "static")
        tell(f"writing {folder}", 0, 0)
        place = export_site(site, folder, overwrite=overwrite)
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    if as_json:
        terminal.print_json({"folder": str(shown(place)), "size_bytes": size})
    else:
        terminal.say(f"{shown(place)}: {spell_size(size)}; README.md says which headers a web server must send")


@dataclass(frozen=True)
class _Settings:
    """How a page is served; see the options."""

    mode: Mode
    port: int | None
    hosts: tuple[str, ...]
    profiles: Path
    ort: str | None
    show: Show
    open_page: bool


def _serve(bundles: Sequence[str], settings: _Settings) -> None:
    from eetoolkit.cli.serve_lines import Opened
    from eetoolkit.serve.addresses import LOOPBACK, host_names, lan_addresses, listen
    from eetoolkit.serve.app import Serving, make_app, new_token
    from eetoolkit.serve.server import serve_until_stopped
    from eetoolkit.serve.site import site_of

    mode, show = settings.mode, settings.show
    named: tuple[str, ...] = (LOOPBACK,)
    if mode != "localhost":
        named = (*settings.hosts, *lan_addresses())
        if not named:
            raise terminal.Failure("this computer has no address in a network; connect it, or name one with --host")
    hosts = dict.fromkeys((*named, *(host_names() if mode != "localhost" else ()), "localhost", LOOPBACK))
    shelves = _opened(bundles)
    with listen(lan=mode != "localhost", port=settings.port, ports=_PORTS[mode]) as listener:
        with terminal.progress() as tell:
            site = site_of(shelves, _assets(settings.ort, tell), mode)
        made = _certificate(tuple(hosts)) if mode == "https" else None
        token, port = new_token(), listener.getsockname()[1]
        scheme = "http" if made is None else "https"
        opened = Opened(tuple(f"{scheme}://{host}:{port}/{token}/" for host in named), mode, settings.profiles, made)

        def started() -> None:
            show.start(opened)
            if settings.open_page:
                click.launch(f"{scheme}://{LOOPBACK}:{port}/{token}/")

        app = make_app(site, Serving(token, frozenset(hosts), settings.profiles, show.event))
        serve_until_stopped(app, listener, None if made is None else made.path, started=started)
    show.end()


def _certificate(hosts: Sequence[str]) -> Certificate:
    from eetoolkit.serve.certificate import certificate

    return certificate(hosts)

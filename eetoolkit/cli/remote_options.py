"""Options that say which server goes on with a row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from eetoolkit_runtime.files.paths import shown

REMOTE = ("url", "cut", "policy", "timeout_ms", "token_file", "certificates", "unencrypted")
"""The names of `remote_options`."""


def remote_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds what says which server goes on; the command gets it as one mapping, its argument `remote`, or None."""
    path = click.Path(exists=True, dir_okay=False, path_type=Path)

    @click.option(
        "--remote", "url", metavar="URL", help="A server that goes on: https://HOST/v2/models/NAME, or grpcs://."
    )
    @click.option("--from", "cut", metavar="EXIT", help="Behind which exit it does; a device's half says so itself.")
    @click.option(
        "--policy",
        type=click.Choice(["remote", "faster", "local"]),
        help="Ask it always (the default), where that is faster, or never.",
    )
    @click.option(
        "--timeout-ms",
        type=click.FloatRange(min=0, max=3.6e6, min_open=True),
        metavar="MS",
        help="How long to wait for it without a deadline; default: 1000.",
    )
    @click.option(
        "--token-file", type=path, metavar="FILE", help="Its first line is the token; default: $EETOOLKIT_TOKEN."
    )
    @click.option("--certificates", type=path, metavar="FILE", help="Trust these, PEM; default: the system's.")
    @click.option("--unencrypted", is_flag=True, help="Allow http:// and grpc:// to other machines.")
    @functools.wraps(command)
    def packed(
        *arguments: Any,
        url: str | None,
        cut: str | None,
        policy: str | None,
        timeout_ms: float | None,
        token_file: Path | None,
        certificates: Path | None,
        unencrypted: bool,
        **others: Any,
    ) -> None:
        given: dict[str, object] = {
            "from": cut,
            "policy": policy,
            "timeout_ms": timeout_ms,
            "token": None if token_file is None else _token(token_file),
            "certificates": None if certificates is None else str(certificates),
            "tls": False if unencrypted else None,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if url is None and given:
            raise click.UsageError("--from, --policy, --timeout-ms, --token-file, --certificates go with --remote URL")
        command(*arguments, remote=None if url is None else {"url": url, **given}, **others)

    return packed


def _token(file: Path) -> str:
    from eetoolkit_runtime.remote.settings import NO_TOKEN, is_token

    first, *_ = file.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    token = first.strip()
    if not is_token(token):
        what = (
            f"the first line of {shown(file)} is {NO_TOKEN}" if token else f"the first line of {shown(file)} is empty"
        )
        raise click.BadParameter(what, param_hint="--token-file")
    return token

"""A bundle in two halves on disk: the device's bundle, and the server's in a model repository."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from eetoolkit.extras import install
from eetoolkit.reading.samples import Data
from eetoolkit.splitting.crossing import OPSET, Narrowed, narrowed, opset_of, with_graphs
from eetoolkit.splitting.golden import golden_of_halves
from eetoolkit.splitting.judging import Chosen, Rows, choose, rows_that_cross
from eetoolkit.splitting.report import Crosses, SplitReport
from eetoolkit.splitting.repository import (
    BUNDLE,
    check_repository,
    room_for,
    settings_for,
    without,
    write_mlserver,
    write_triton,
)
from eetoolkit.tuning.collect import Progress
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.golden import Sample, store_golden
from eetoolkit_runtime.bundle.integrity import check_full
from eetoolkit_runtime.bundle.rewriting import write_bundle
from eetoolkit_runtime.bundle.store import check_target, named_by_content, staging
from eetoolkit_runtime.errors import BundleError, ExportError, InputError
from eetoolkit_runtime.files.paths import shown
from eetoolkit_runtime.plan.halves import CutPoint, Halves, cut_point, halves, split_in
from eetoolkit_runtime.plan.types import File, Manifest
from eetoolkit_runtime.verify import verify

Server = Literal["mlserver", "triton"]
_SERVERS: tuple[Server, ...] = ("mlserver", "triton")


@checked(InputError)
def split(  # noqa: PLR0913 - settings, each with a default
    bundle: str | os.PathLike[str] | Bundle,
    at: str,
    device: str | os.PathLike[str],
    server: str | os.PathLike[str],
    *,
    crossing: Literal["float32", "float16", "uint8", "auto"] = "float32",
    rows: Data | str | os.PathLike[str] | None = None,
    max_disagreement: float = 0.01,
    servers: Collection[Server] = _SERVERS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SplitReport:
    """Writes a bundle in two halves: what a device runs, and what a model server goes on with.

    The device's half hands over what the rest of the plan needs of a row that none of its exits answers. The server's
    half lies in a model repository, `server`/NAME/VERSION/, for MLServer and for Triton. The version is a number that
    says which half it is, so that a server which holds another one refuses a device's request. Other models and other
    versions that lie there stay.

    Both halves are written or none is. Each has golden samples, by which `verify` checks it.

    Args:
        bundle: A `Bundle` or its path.
        at: Behind which exit, or before which segment, the plan is cut.
        device: Where to write the device's half.
        server: The model repository.
        crossing: What float32 tensors cross as. `uint8`: with scales that rows choose; `auto`: what takes the fewest
            bytes at which the answers of the server's half agree with those of float32.
        rows: Inputs as `profile` takes them, a path, or an iterable of rows; half of those that come to the handover
            choose scales, the other half judges. None: golden samples choose, and nothing judges.
        max_disagreement: Which share of the answers may differ, for `auto`; above 0.
        servers: For which model servers.
        overwrite: Whether a bundle at `device`, and this version of the model, may be replaced.
        progress: Is told (what, done, total) for every row.

    Raises:
        InputError: The plan cannot be cut there; rows that the bundle does not take, or too few.
        ExportError: The extra `export` is missing, which a smaller crossing and Triton take.
        BundleError: The bundle cannot be opened, or something is in the way.
    """
    source = load(bundle)
    point = cut_point(source.manifest, at)
    found = halves(source.manifest, point)
    _check_settings(crossing, rows, max_disagreement, servers)
    _check_extra(crossing, servers)
    target, place = check_target(device, overwrite=overwrite), check_repository(server)
    if target == place or source.lies_at(target):
        what = "given for the device and for the server" if target == place else "what is split"
        raise BundleError(f"{shown(target)} is {what}; name another for the device's half")
    check_full(source.path, source.manifest)
    seen = rows_that_cross(source, found, rows, progress)
    chosen = choose(source, found, crossing, seen, max_disagreement, progress)
    with staging(place) as folder:
        opset = opset_of(source.path, found.server) if chosen.codings else OPSET
        narrow = narrowed(found, chosen.codings, opset)
        graphs = _graphs(narrow, folder)
        both = with_graphs(narrow, {half: (name, entry) for half, (_, name, entry) in graphs.items()})
        split = split_in(both.device)
        golden = golden_of_halves(source, found, split, narrow.codings)
        own = {half: path for half, (path, _, _) in graphs.items()}
        staged = folder / split.model / str(split.version)
        staged.mkdir(parents=True)
        _write(source, both.server, own.get("server"), golden.server, golden.server_tolerance, staged / BUNDLE)
        left_out = _serve(staged, both.server, split.version, servers)
        with room_for(place, staged, overwrite=overwrite), settings_for(place, servers):
            _write(
                source, both.device, own.get("device"), golden.device, golden.device_tolerance, target,
                overwrite=overwrite,
            )  # fmt: skip
    return SplitReport(
        device=str(target),
        server=str(place / split.model / str(split.version)),
        model=split.model,
        version=split.version,
        exit=point.exit,
        segment=point.segment,
        crossing="float32" if not chosen.codings else next(iter(chosen.codings.values())).dtype,
        tensors=_crosses(found, both, chosen, seen),
        disagreement=chosen.disagreement,
        rows=0 if chosen.disagreement is None else len(seen.judge),
        servers=tuple(name for name in servers if name not in left_out),
        left_out=left_out,
        notes=seen.notes,
    )


def _check_settings(crossing: str, rows: object, max_disagreement: float, servers: Collection[str]) -> None:
    if crossing == "auto" and rows is None:
        raise InputError(
            "crossing='auto' (--crossing auto) is chosen by rows: pass rows (--data), or say which: float16 or uint8"
        )
    if not 0 < max_disagreement <= 1:
        raise InputError(f"max_disagreement is {max_disagreement}, expected a share above 0, 1 at most")
    if not servers:
        raise InputError(f"servers is empty, expected some of {', '.join(_SERVERS)}")


def _check_extra(crossing: str, servers: Collection[str]) -> None:
    if crossing == "float32" and "triton" not in servers:
        return
    missing = [name for name in ("onnx", "onnx_ir") if importlib.util.find_spec(name) is None]
    if missing:
        fix = f"{install('export')}, or write float32 for servers=('mlserver',) (--for mlserver) alone"
        raise ExportError(f"`split` needs {missing[0]}: {fix}")


def _graphs(narrow: Narrowed, folder: Path) -> dict[str, tuple[Path, str, File]]:
    """Writes the graphs between the halves; returns path, name and digest of each by its half."""
    found = {}
    for half, graph in (("device", narrow.device), ("server", narrow.server)):
        if graph is not None:
            path = folder / f"{half}.onnx"
            path.write_bytes(graph[1])
            name, entry = named_by_content(path, graph[0])
            found[half] = folder / name, name, entry
    return found


def _write(
    source: Bundle,
    plan: Manifest,
    graph: Path | None,
    samples: Sequence[Sample],
    tolerance: float,
    target: Path,
    *,
    overwrite: bool = False,
) -> Bundle:
    """Writes one half, after it has given its golden samples."""

    def make(folder: Path) -> Manifest:
        for name in plan.files:
            from_ = graph if graph is not None and graph.name == name else source.path / name
            shutil.copyfile(from_, folder / name)
        if not samples:
            return plan
        golden, stored = store_golden(folder, samples, tolerance)
        return msgspec.structs.replace(plan, files={**plan.files, **stored}, golden=golden)

    return write_bundle(target, make, _proved, overwrite=overwrite)


def _proved(bundle: Bundle) -> Manifest:
    """Returns the manifest of a half that gives what it should.

    Raises:
        BundleError: It does not.
    """
    if bundle.manifest.golden is not None:
        report = verify(bundle)
        if not report.passed:
            raise BundleError(
                f"{bundle.manifest.name}: this half does not give its golden samples here: {report.failures[0]}; "
                "does `eetoolkit verify` pass for the whole bundle?"
            )
    return bundle.manifest


def _serve(staged: Path, server: Manifest, version: int, servers: Collection[Server]) -> dict[str, str]:
    """Writes what model servers look for beside the bundle; returns why one gets nothing, by its name."""
    left_out = {}
    if "mlserver" in servers:
        write_mlserver(staged, server, version)
    if "triton" in servers:
        reason = write_triton(staged, server.name)
        if reason is not None:
            left_out["triton"] = reason
    if len(left_out) == len(servers):
        raise BundleError(f"nothing to serve: {'; '.join(left_out.values())}")
    if "mlserver" not in servers:
        without(staged)
    return left_out


def _crosses(found: Halves, both: Halves, chosen: Chosen, seen: Rows) -> tuple[Crosses, ...]:
    tensors = []
    for old, new in zip(found.server.inputs, both.server.inputs, strict=True):
        size = seen.size_of(old.name)
        if size is None and all(isinstance(dim, int) or dim == "batch" for dim in old.shape):
            size = _fixed_bytes(old.dtype, old.shape)
        share = {"float16": 2, "uint8": 4}.get(new.dtype, 1) if old.name in chosen.codings else 1
        tensors.append(
            Crosses(
                name=new.name, dtype=new.dtype, shape=new.shape, float_bytes=size,
                bytes=None if size is None else size // share, error=chosen.errors.get(old.name, 0.0),
            )
        )  # fmt: skip
    return tuple(tensors)


def crosses_of(source: Bundle, point: CutPoint) -> tuple[Crosses, ...]:
    """Returns what would cross where a plan is cut, with the sizes that the shapes say."""
    found = halves(source.manifest, point)
    return _crosses(found, found, Chosen(), Rows(()))


def _fixed_bytes(dtype: str, shape: Sequence[object]) -> int:
    return math.prod(dim if isinstance(dim, int) else 1 for dim in shape) * np.dtype(dtype).itemsize

"""`eetoolkit demo`, read top to bottom."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eetoolkit import zoo
from eetoolkit.extras import install
from eetoolkit_runtime.bundle.integrity import read_manifest
from eetoolkit_runtime.bundle.store import check_target
from eetoolkit_runtime.errors import BundleError, EEToolkitError
from eetoolkit_runtime.profiling.profile import Profile
from eetoolkit_runtime.profiling.profiler import profile
from eetoolkit_runtime.profiling.rounds import Tell
from eetoolkit_runtime.running.runner import Runner

if TYPE_CHECKING:
    from eetoolkit.demo.exporting import Trained

MODEL = "branchynet"
"""The system that is shown where none is named."""

THREADS = 1  # the networks are small: more threads would only wait for each other
SECONDS = 4.0  # of measuring
_SAME = 1e-4  # what the outputs of the bundle and of its network may differ by, relative to their magnitude
_DEFAULT_NAME = "digits"  # of the default system's bundle
_NEEDED = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "sklearn", "matplotlib", "PIL")


@dataclass(frozen=True)
class DemoReport:
    """What the demo made and measured.

    Attributes:
        model: The system's name in the zoo.
        title: What people call it, in short.
        bundle: Where it was written.
        picture: None where all digits left at one exit: there was nothing to draw.
        size_bytes: Of the bundle.
        segments: How many have a model.
        verified_samples: Golden and fresh ones.
        profile: On the held-out digits, in turns with the network without its side exits as one session, at its best.
    """

    model: str
    title: str
    bundle: str
    picture: str | None
    size_bytes: int
    segments: int
    verified_samples: int
    profile: Profile


def demo(
    output: str | os.PathLike[str] | None = None,
    picture: str | os.PathLike[str] = "demo.png",
    *,
    model: str = MODEL,
    tell: Tell,
) -> DemoReport:
    """Exports a system of the zoo to `output`, verifies and measures it there, and draws some digits to `picture`.

    The default model is trained first where it has no weights, in a minute or two. What an earlier demo wrote is
    replaced, anything else is left alone. Nothing is drawn where all digits left at one exit.

    Args:
        output: The bundle; None: `{model}.ee`, or `digits.ee` for the default model.
        picture: A PNG.
        model: The system's name.
        tell: Is told how it goes.

    Raises:
        EEToolkitError: The `demo` extra is missing, the zoo has no such system or no weights for it, something is in
            the way, or the bundle fails to verify.
    """
    _check_installed()
    system = zoo.find(model)
    name = _DEFAULT_NAME if model == MODEL else model
    target, picture_path = bundle_path(output, model), Path(picture)

    from eetoolkit.demo.exporting import export_system, load_system, save_whole
    from eetoolkit.demo.picture import check_picture, draw
    from eetoolkit.verification import verify

    if model == MODEL and not system.checkpoint.is_file():
        from eetoolkit.zoo.train import train

        tell(f"training {system.name}, once; its weights are not in the package", 0, 0)
        train(system)
    trained = load_system(system)
    overwrite = _is_own_bundle(target, name, trained)
    check_target(target, overwrite=overwrite)
    check_picture(picture_path)
    images, labels = trained.images, trained.labels
    tell("exporting the network to a bundle", 0, 0)
    bundle = export_system(trained, target, name=name, overwrite=overwrite)
    tell("verifying the bundle", 0, 0)
    verified = verify(bundle, trained.exported)
    if not verified.passed:
        raise EEToolkitError(f"{bundle.place} differs from its network on this machine: {verified.failures[0]}")
    exits = list(bundle.exits)
    tell("exporting the network as one graph", 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        whole = save_whole(trained, exits[-1], Path(folder) / "whole.onnx")
        found = profile(
            bundle, iter(trained.rows), labels, threads=THREADS, seconds=SECONDS, max_rows=len(labels), whole=whole,
            progress=tell,
        )  # fmt: skip
    check_same_network(found)
    with Runner(bundle, threads=THREADS) as runner:
        answers = [runner.run(row) for row in trained.rows]
    parted = len({answer.exit for answer in answers}) > 1
    if parted:
        tell("drawing", 0, 0)
        draw(picture_path, images[:, 0].numpy(), labels, answers, exits)
    return DemoReport(
        model=system.name,
        title=system.title.split(":")[0],
        bundle=str(bundle.place),
        picture=str(picture_path) if parted else None,
        size_bytes=bundle.size_bytes,
        segments=answers[0].segments,
        verified_samples=verified.samples,
        profile=found,
    )


def bundle_path(output: str | os.PathLike[str] | None, model: str) -> Path:
    """Returns where the demo of a system writes its bundle."""
    return Path(f"{_DEFAULT_NAME if model == MODEL else model}.ee" if output is None else output)


def _check_installed() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise EEToolkitError(f"the demo needs {', '.join(missing)}: {install('demo')}")


def _is_own_bundle(path: Path, name: str, trained: Trained) -> bool:
    """Says whether an earlier demo of this system wrote what is at `path`.

    Raises:
        BundleError: There is another bundle.
    """
    try:
        plan = read_manifest(path)
        own = plan.name == name and trained.provenance in str(plan.created_with.get("source"))
    except FileNotFoundError:
        return False
    except BundleError:
        own = False
    if not own:
        raise BundleError(
            f"{path} is a bundle that the demo did not make; it is left as it is: choose another --output"
        )
    return True


def check_same_network(found: Profile) -> None:
    """Refuses to compare the times of two things that do not compute the same.

    Raises:
        EEToolkitError: The last exit's outputs differ from the whole network's by more than 1e-4, relative to their
            largest magnitude where that is over 1.
    """
    difference = None if found.whole is None else found.whole.difference
    if difference is None or not difference <= _SAME:
        by = "in shape" if difference is None else f"by {difference:.1e}"
        raise EEToolkitError(f"the bundle's last exit and the whole network differ {by}: their times say nothing")

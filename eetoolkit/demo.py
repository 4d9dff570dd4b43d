"""The whole way on a small network: export, verify, run the held-out digits, measure, draw what left where."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eetoolkit.demo_timing import Runs, Session, interleave
from eetoolkit_runtime.bundle import Bundle
from eetoolkit_runtime.errors import BundleError, EEToolkitError
from eetoolkit_runtime.inputs import Array
from eetoolkit_runtime.plan import decode
from eetoolkit_runtime.store import MANIFEST, check_target
from eetoolkit_runtime.verify import difference

if TYPE_CHECKING:
    from eetoolkit.zoo.branchynet import BranchyNet

Tell = Callable[[str, int, int], None]
"""Takes what goes on, how much of it is done, and of how much; 0 of 0 where nobody knows."""

NAME = "digits"
THREADS = 1  # the network is small: more threads would only wait for each other
_NEEDED = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "sklearn", "matplotlib", "PIL")
_PNG_SCALE = 1 / 255  # so that `eetoolkit run digits.ee picture.png` works; scikit-learn's own pixels end at 16


@dataclass(frozen=True)
class ExitResult:
    """One exit over all digits.

    Attributes:
        left: How many digits left here.
        accuracy: Of those; None where there are none.
        accuracy_if_always: Of all digits, if every one left here.
        median_ms: Latency of those that left here; None where there are none.
    """

    exit: str
    left: int
    share: float
    accuracy: float | None
    accuracy_if_always: float
    median_ms: float | None


@dataclass(frozen=True)
class Latency:
    """Per digit, over all digits."""

    median_ms: float
    mean_ms: float


@dataclass(frozen=True)
class DemoReport:
    """What the demo found; `whole` is the network without its side exits as one onnxruntime session.

    Attributes:
        speedup_mean: The ratio of the mean latencies, so of the times for all digits.
        speedup_median: The ratio of the median latencies.
    """

    bundle: str
    picture: str
    size_bytes: int
    segments: int
    verified_samples: int
    digits: int
    threads: int
    accuracy: float
    whole_accuracy: float
    exits: tuple[ExitResult, ...]
    latency: Latency
    whole_latency: Latency
    speedup_mean: float
    speedup_median: float


def demo(
    output: str | os.PathLike[str] = "digits.ee", picture: str | os.PathLike[str] = "demo.png", *, tell: Tell
) -> DemoReport:
    """Exports the zoo's BranchyNet to `output`, verifies and measures it there, and draws some digits to `picture`.

    What an earlier demo wrote is replaced, anything else is left alone.

    Raises:
        EEToolkitError: The `demo` extra is missing, something is in the way, or the bundle fails to verify.
    """
    _check_installed()
    bundle_path, picture_path = Path(output), Path(picture)
    overwrite = _is_own_bundle(bundle_path)
    check_target(bundle_path, overwrite=overwrite)

    from eetoolkit.demo_picture import check_picture, draw
    from eetoolkit.verification import verify
    from eetoolkit.zoo import branchynet, digits

    check_picture(picture_path)
    network, test = branchynet.load(), digits.digits("test")
    images = test.images * np.float32(digits.PREPROCESS["image"]["scale"])
    tell("exporting the network to a bundle", 0, 0)
    bundle = _export(network, images, bundle_path, overwrite=overwrite)
    tell("verifying the bundle", 0, 0)
    report = verify(bundle, network)
    if not report.passed:
        raise EEToolkitError(f"{bundle.path} differs from its network on this machine: {report.failures[0]}")
    tell("exporting the network as one graph", 0, 0)
    whole = _open_whole(network, list(bundle.exits)[-1])
    runs = interleave(bundle, whole, images, THREADS, tell)
    _check_same_network(runs)
    tell("drawing", 0, 0)
    draw(picture_path, images[:, 0], test.labels, runs.answers, list(bundle.exits))
    return _summarize(bundle, picture_path, report.samples, runs, test.labels)


def _check_installed() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise EEToolkitError(f"the demo needs {', '.join(missing)}: pip install 'eetoolkit[demo]'")


def _is_own_bundle(path: Path) -> bool:
    """Says whether an earlier demo wrote what is at `path`.

    Raises:
        BundleError: There is another bundle.
    """
    if not (path / MANIFEST).is_file():
        return False
    try:
        plan = decode((path / MANIFEST).read_bytes())
        own = plan.name == NAME and "branchynet" in str(plan.created_with.get("source"))
    except BundleError:
        own = False
    if not own:
        raise BundleError(
            f"{path} is a bundle that the demo did not make; it is left as it is: choose another --output"
        )
    return True


def _export(network: BranchyNet, images: Array, path: Path, *, overwrite: bool) -> Bundle:
    from eetoolkit.zoo.branchynet import example_inputs
    from eetoolkit.zoo.digits import LABELS, PREPROCESS
    from eetoolkit_exporters.export import export

    preprocess = {name: {**options, "scale": _PNG_SCALE} for name, options in PREPROCESS.items()}
    return export(
        network,
        example_inputs(),
        path,
        name=NAME,
        labels=LABELS,
        preprocess=preprocess,
        golden_inputs=images[:8],
        overwrite=overwrite,
    )


def _open_whole(network: BranchyNet, last_exit: str) -> Session:
    """Returns the network up to its last exit, without the heads of the others, as one onnxruntime session."""
    import onnx_ir as ir
    import onnxruntime as ort

    from eetoolkit.zoo.branchynet import example_inputs
    from eetoolkit_exporters.capture import capture
    from eetoolkit_exporters.graphs import whole_model
    from eetoolkit_exporters.source import choose_exits, open_source

    source = open_source(network, example_inputs())
    model = whole_model(capture(source, choose_exits(source, None)), [last_exit], confidences=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole.onnx"
        ir.save(model, path)
        session: Session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session


def _check_same_network(runs: Runs) -> None:
    """Refuses to compare the times of two things that do not compute the same."""
    found = difference(runs.exit_logits[-1], runs.whole_logits)
    if not found <= 1e-4:
        raise EEToolkitError(
            f"the bundle's last exit and the whole network differ by {found:.1e}; nothing was measured"
        )


def _summarize(bundle: Bundle, picture: Path, samples: int, runs: Runs, labels: Array) -> DemoReport:
    exits = list(bundle.exits)
    left_at = np.array([exits.index(answer.exit) for answer in runs.answers])
    right = np.array([answer.prediction for answer in runs.answers]) == labels
    latency, whole_latency = _latency(runs.bundle_ms), _latency(runs.whole_ms)
    return DemoReport(
        bundle=str(bundle.path),
        picture=str(picture),
        size_bytes=bundle.size_bytes,
        segments=len(bundle.manifest.segments),
        verified_samples=samples,
        digits=len(labels),
        threads=THREADS,
        accuracy=float(right.mean()),
        whole_accuracy=float((runs.whole_logits.argmax(axis=1) == labels).mean()),
        exits=tuple(
            ExitResult(
                exit=name,
                left=int((left_at == number).sum()),
                share=float((left_at == number).mean()),
                accuracy=float(right[left_at == number].mean()) if number in left_at else None,
                accuracy_if_always=float((runs.exit_logits[number].argmax(axis=1) == labels).mean()),
                median_ms=float(np.median(runs.bundle_ms[left_at == number])) if number in left_at else None,
            )
            for number, name in enumerate(exits)
        ),
        latency=latency,
        whole_latency=whole_latency,
        speedup_mean=whole_latency.mean_ms / latency.mean_ms,
        speedup_median=whole_latency.median_ms / latency.median_ms,
    )


def _latency(milliseconds: Array) -> Latency:
    return Latency(float(np.median(milliseconds)), float(milliseconds.mean()))

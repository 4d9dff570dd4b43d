"""A trained system of the zoo as a bundle, and as the one file that it is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.profiling.rounds import Row

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor, nn

    from eetoolkit.zoo.system import System

GOLDEN_ROWS = 8
_PNG_SCALE = 1 / 255  # so that `eetoolkit run digits.ee picture.png` works; scikit-learn's own pixels end at 16


@dataclass(frozen=True)
class Trained:
    """A system with its shipped weights, and the held-out digits that it is shown.

    Attributes:
        network: In evaluation mode.
        exported: What `ee.export` takes.
        images: float32 (n, 1, 8, 8), in [0, 1].
        labels: int64 (n,).
    """

    system: System
    network: nn.Module
    exported: Any
    images: Tensor
    labels: NDArray[np.int64]

    def inputs(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Returns the network's inputs for some of the images."""
        return tuple(self.system.inputs(self.images[start:stop]))

    @cached_property
    def rows(self) -> list[Row]:
        """The network's inputs for every image alone, C-contiguous: what a `Runner` takes."""
        rows = [self.inputs(number, number + 1) for number in range(len(self.images))]
        return [tuple(np.ascontiguousarray(tensor.numpy()) for tensor in row) for row in rows]

    @property
    def example(self) -> tuple[Tensor, ...]:
        """The example that it is exported with: one row where it takes one at a time, else two."""
        return self.inputs(0, 1 if self.system.one_row else 2)

    @property
    def provenance(self) -> str:
        """What a bundle's `created_with.source` holds if it was made of this system."""
        if isinstance(self.exported, list):
            return f"cascade of {len(self.exported)}"
        return f"{type(self.exported).__module__}.{type(self.exported).__qualname__}"


def load_system(system: System) -> Trained:
    """Returns the system with its shipped weights, ready to be exported.

    Raises:
        EEToolkitError: It has no weights.
    """
    if not system.checkpoint.is_file():
        raise EEToolkitError(f"{system.name} has no weights here: eetoolkit zoo train {system.name}")
    from eetoolkit.zoo.train import tensors

    network = system.load()
    images, labels = tensors("test")
    return Trained(system, network, system.exported(network), images, labels.numpy())


def export_system(
    trained: Trained, path: Path, *, name: str | None = None, overwrite: bool = False, **options: Any
) -> Bundle:
    """Compiles the system to a bundle at `path` with the options that it states; None: named as the system.

    All its control flow becomes gates of the plan, small as it is, so that its decisions are seen.
    """
    from eetoolkit.zoo.digits import LABELS, PREPROCESS
    from eetoolkit.zoo.system import images_alone
    from eetoolkit_exporters.capturing.cascade import open_source
    from eetoolkit_exporters.export import export

    preprocess = None
    if trained.system.inputs is images_alone:
        (image,) = open_source(trained.exported, trained.example).inputs
        preprocess = {image: {**PREPROCESS["image"], "scale": _PNG_SCALE}}
    return export(
        trained.exported,
        trained.example,
        path,
        name=name or trained.system.name,
        labels=LABELS,
        preprocess=preprocess,
        golden_inputs=trained.inputs(0, GOLDEN_ROWS),
        overwrite=overwrite,
        **{"lower_control_flow": "always", **trained.system.options, **options},
    )


def save_whole(trained: Trained, exit_: str, path: Path) -> Path:
    """Writes the network up to one exit at its best, every weight in the branch or loop body that reads it."""
    import onnx_ir as ir

    from eetoolkit_exporters.emitting.scoping import localize

    model = whole_network(trained, exit_)
    localize(model)
    ir.save(model, path)
    return path


def whole_network(trained: Trained, exit_: str) -> ir.Model:
    """Returns the network up to one exit, without the heads of the others, as one graph.

    Its control flow is `If` and `Loop`, their weights outside; blended gates compute both sides, as they were written.
    """
    from eetoolkit_exporters.capturing.capture import capture
    from eetoolkit_exporters.capturing.cascade import open_source
    from eetoolkit_exporters.capturing.source import choose_exits
    from eetoolkit_exporters.emitting.graphs import whole_model

    source = open_source(trained.exported, trained.example)
    network = capture(
        source, choose_exits(source, None), dynamic_batch=bool(trained.system.options.get("dynamic_batch", True))
    )
    return whole_model(network, [exit_], confidences=False)

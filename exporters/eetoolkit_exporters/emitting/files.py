"""Graphs, and beside them their weights as external data that onnxruntime maps from disk; one copy of what is tied."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir
from msgspec import structs

from eetoolkit_exporters.emitting.packing import mostly_shared, one_row
from eetoolkit_exporters.emitting.releases import RELEASES, Version, least_onnxruntime
from eetoolkit_runtime.bundle.store import named_by_content
from eetoolkit_runtime.files.paths import file_stem
from eetoolkit_runtime.plan.types import File, Segment

INLINE_BYTES = 1024  # below it a copy in every graph is smaller on disk than an entry that points to one
_ALIGNMENT_BYTES = 64  # a cache line, and the widest vector load


@dataclass(frozen=True)
class _Place:
    file: str
    offset: int
    length: int


@dataclass
class SegmentFiles:
    """The files of one bundle's segments: a weight that an earlier segment has is read from that segment's file.

    Attributes:
        folder: Where the files are written.
        files: Every file written, by its content name.
        onnxruntime: The first that reads all graphs written.
    """

    folder: Path
    files: dict[str, File] = field(default_factory=dict)
    onnxruntime: Version = RELEASES[0].version
    _places: dict[bytes, _Place] = field(default_factory=dict)
    _weights: dict[str, dict[bytes, int]] = field(default_factory=dict)
    _of_one_row: set[str] = field(default_factory=set)

    def write(self, model: ir.Model, segment: str) -> tuple[str, tuple[str, ...]]:
        """Writes a segment's graph and weights; returns the names of its own file and of those that it maps."""
        if one_row(model, INLINE_BYTES):
            self._of_one_row.add(segment)
        stem = file_stem(segment)
        mapped = self._externalize(model, segment)
        self.onnxruntime = max(self.onnxruntime, least_onnxruntime(model))
        path = self.folder / f"{stem}.onnx"
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
        name, self.files[name] = named_by_content(path, stem)
        return name, mapped

    def settle(self, segments: Mapping[str, Segment]) -> dict[str, Segment]:
        """Returns the segments, whose graphs are all written, with what is now known of packing their weights."""
        unpacked = mostly_shared(self._weights) & self._of_one_row
        return {name: structs.replace(segment, prepack=name not in unpacked) for name, segment in segments.items()}

    def _externalize(self, model: ir.Model, segment: str) -> tuple[str, ...]:
        """Moves the model's weights to files and returns the names of those that it maps."""
        tensors = [
            (value, tensor)
            for graph in model.graphs()
            for value in graph.initializers.values()
            if (tensor := value.const_value) is not None
            and tensor.nbytes >= INLINE_BYTES
            and tensor.dtype != ir.DataType.STRING
        ]
        keys = [_content(tensor) for _, tensor in tensors]
        self._weights[segment] = {key: tensor.nbytes for key, (_, tensor) in zip(keys, tensors, strict=True)}
        _inline_small(model)
        stem = file_stem(segment)
        path = self.folder / f"{stem}.bin"
        fresh: dict[bytes, tuple[int, int]] = {}
        with path.open("wb") as file:
            for key, (_, tensor) in zip(keys, tensors, strict=True):
                if key in self._places or key in fresh:
                    continue
                file.write(bytes(-file.tell() % _ALIGNMENT_BYTES))
                offset = file.tell()
                file.write(tensor.tobytes())
                fresh[key] = (offset, file.tell() - offset)
        if fresh:
            name, entry = named_by_content(path, stem)
            self.files[name] = entry
            self._places.update({key: _Place(name, *where) for key, where in fresh.items()})
        else:
            path.unlink()
        used: dict[str, None] = {}
        for key, (value, tensor) in zip(keys, tensors, strict=True):
            place = self._places[key]
            used[place.file] = None
            value.const_value = ir.ExternalTensor(
                place.file, place.offset, place.length, tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()), name=str(value.name), base_dir=self.folder,
            )  # fmt: skip
        return tuple(used)


def _content(tensor: ir.TensorProtocol) -> bytes:
    """Returns a key that two tensors share only if they are equal in dtype, shape and every bit."""
    sha = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    sha.update(tensor.tobytes())
    return sha.digest()


def _inline_small(model: ir.Model) -> None:
    """Reads small tensors that lie in a file of the user's, which the bundle will not have."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes < INLINE_BYTES:
                value.const_value = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)

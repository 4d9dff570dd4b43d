"""onnxruntime's own quantiser on graphs of onnx_ir: nothing printed, nothing left on disk."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from eetoolkit_exporters.emitting.scoping import lift
from eetoolkit_exporters.quantizing.weights import load_weights
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError, first_line

BITS = 8
ACCURACY_LEVEL = 4
"""Of `MatMulNBits`: its activations are int8 too."""


def quantize_static(
    model: ir.Model,
    types: Sequence[str],
    without: Collection[str],
    feeds: Iterable[Mapping[str, Array]],
    settings: Mapping[str, Any],
) -> ir.Model:
    """Returns a graph with pairs of `QuantizeLinear` and `DequantizeLinear` around the operators of these types.

    Args:
        model: The graph, its nodes named.
        types: Operators whose inputs and outputs are quantised.
        without: The names of nodes that are not.
        feeds: What is run to find the ranges of tensors.
        settings: Further ones, in onnxruntime's words.
    """
    from onnxruntime import quantization

    class Rows(quantization.CalibrationDataReader):  # type: ignore[misc] # onnxruntime ships no types
        def __init__(self) -> None:
            self.rows = iter(feeds)

        def get_next(self) -> Mapping[str, Array] | None:
            return next(self.rows, None)

    with _in_files(model) as (source, target):
        quantization.quantize_static(
            source,
            target,
            Rows(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(types),
            nodes_to_exclude=sorted(without),
            use_external_data_format=True,
            **settings,
        )
        return _read(target)


def quantize_dynamic(model: ir.Model, nodes: Collection[str], settings: Mapping[str, Any]) -> ir.Model:
    """Returns a graph whose `MatMul`s of these names multiply integers, what they are given scaled as it comes."""
    from onnxruntime import quantization

    with _in_files(model) as (source, target):
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=sorted(nodes),
            use_external_data_format=True,
            **settings,
        )
        return _read(target)


def quantize_blockwise(model: ir.Model, blocks: Mapping[str, int]) -> ir.Model:
    """Returns a graph whose `MatMul`s of these names have int8 weights with a scale for each block of a column.

    Args:
        model: The graph, its nodes named.
        blocks: How many weights have a scale of their own, by node.
    """
    with _quietly():  # its module sets up logging for the whole process when it is imported
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        proto = ir.to_proto(model)
        names = {node.name for node in proto.graph.node}
        for size in sorted(set(blocks.values())):
            quantizer = MatMulNBitsQuantizer(
                proto,
                bits=BITS,
                block_size=size,
                is_symmetric=True,
                accuracy_level=ACCURACY_LEVEL,
                nodes_to_exclude=names - {name for name, block in blocks.items() if block == size},
            )
            quantizer.process()
            proto = quantizer.model.model
        return ir.from_proto(proto)


@contextlib.contextmanager
def _in_files(model: ir.Model) -> Iterator[tuple[Path, Path]]:
    """Yields the files that onnxruntime is to read and to write; weights lie outside, as some exceed 2 GB."""
    with tempfile.TemporaryDirectory(prefix="eetoolkit-") as folder, _quietly():
        source = Path(folder) / "model.onnx"
        ir.save(model, source, external_data="model.bin")
        yield source, Path(folder) / "quantized.onnx"


def _read(path: Path) -> ir.Model:
    model = lift(ir.load(path))
    load_weights(model)
    return model


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Lets nothing be printed, logged or warned of; errors but for those of files are raised as an `ExportError`."""
    disabled = logging.root.manager.disable
    handler = logging.NullHandler()  # or `logging.warning` would set up a handler for good
    logging.root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(action="ignore"),
        ):
            yield
    except OSError:  # no fault of the graph
        raise
    except AssertionError as error:  # of its scales
        raise ExportError("a tensor of the segment has no range: it is NaN on every row that was given") from error
    except Exception as error:
        raise ExportError(f"onnxruntime's quantiser: {first_line(error)}") from error
    finally:
        logging.disable(disabled)
        logging.root.removeHandler(handler)

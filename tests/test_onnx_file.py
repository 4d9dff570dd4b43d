"""Files of a graph: behind symbolic links, and damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import eetoolkit as ee
from eetoolkit.reading.modelspec import _read_weights

X = np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)
RNG = np.random.default_rng(1)
WEIGHTS = {name: RNG.standard_normal((16, 4)).astype(np.float32) for name in ("a", "b")}


def model(rows: str = "N") -> onnx.ModelProto:
    """Returns a network of two exits, x @ a and x @ b."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", name], [f"exit_{name}"]) for name in WEIGHTS],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 16])],
        [helper.make_tensor_value_info(f"exit_{name}", TensorProto.FLOAT, [rows, 4]) for name in WEIGHTS],
        [numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def linked(folder: Path, data: Path) -> Path:
    """Writes a model and its data as Hugging Face's cache does: links with names to files without."""
    blobs, names = folder / "blobs", folder / "names"
    blobs.mkdir()
    names.mkdir()
    data.mkdir(exist_ok=True)
    onnx.save(model(), blobs / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (blobs / "m.onnx").rename(blobs / "aa")
    (blobs / "m.data").rename(data / "bb")
    (names / "m.onnx").symlink_to(blobs / "aa")
    (names / "m.data").symlink_to(data / "bb")
    return names / "m.onnx"


def test_a_model_behind_links_exports(tmp_path: Path) -> None:
    bundle = ee.export(linked(tmp_path, tmp_path / "blobs"), X, tmp_path / "l.ee")
    with ee.Runner(bundle) as runner:
        for name, weight in WEIGHTS.items():
            found = runner.run(X, exit_at=f"exit_{name}").outputs["logits"]
            np.testing.assert_allclose(found, X @ weight, atol=1e-5)


def test_data_elsewhere_than_the_model_is_refused_with_a_command(tmp_path: Path) -> None:
    path = linked(tmp_path, tmp_path / "other")
    with pytest.raises(ee.ExportError) as caught:
        ee.export(path, X, tmp_path / "l.ee")
    assert str(caught.value).startswith(f"{path}: onnxruntime cannot load it: ")
    assert str(caught.value).endswith(f"; copy what links lead to: cp -rL {path.parent} COPY")


def test_an_example_of_its_own_fits_a_size_of_minus_one(tmp_path: Path) -> None:
    proto = model()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(proto, tmp_path / "m.onnx")
    assert ee.export(tmp_path / "m.onnx", None, tmp_path / "m.ee").manifest.inputs[0].shape == ("batch", 16)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model("rows").SerializeToString().replace(b"rows", b"\xce\xffws"))
    with pytest.raises(ee.ExportError, match="onnxruntime cannot load it"):
        ee.export(tmp_path / "m.onnx", None, tmp_path / "m.ee")


def test_an_empty_output_is_refused(tmp_path: Path) -> None:
    proto = model()
    proto.graph.node.append(helper.make_node("Slice", ["exit_b", "zero", "zero"], ["none"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    proto.graph.output.append(helper.make_tensor_value_info("none", TensorProto.FLOAT, None))
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(ee.ExportError) as caught:
        ee.export(tmp_path / "m.onnx", X, tmp_path / "m.ee")
    assert str(caught.value) == "exit 'none': 'logits' has the empty shape [0, 4] on the example"


def test_an_input_that_is_a_weight_too_is_refused(tmp_path: Path) -> None:
    proto = model()
    proto.graph.input[0].name = "a"
    del proto.graph.node[1], proto.graph.output[1]
    proto.graph.node[0].input[0] = "b"
    proto.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [16, 4]))
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(ee.EEToolkitError):
        ee.export(tmp_path / "m.onnx", None, tmp_path / "m.ee")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_models_are_refused_or_exported(seed: int, tmp_path: Path) -> None:
    rng, whole = np.random.default_rng(seed), model().SerializeToString()
    for _ in range(15):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole) // 4)] = rng.integers(256)
        (tmp_path / "m.onnx").write_bytes(damaged)
        try:
            ee.export(tmp_path / "m.onnx", X, tmp_path / "m.ee", overwrite=True)
        except ee.EEToolkitError as error:
            assert str(error)


@pytest.mark.parametrize("name", ["mine.pt", "mine.PTH", "mine.ckpt", "mine.safetensors"])
def test_weights_are_no_network(name: str, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(16, 4).state_dict(), tmp_path / name)
    with pytest.raises(ee.ExportError) as caught:
        ee.export(tmp_path / name, X, tmp_path / "mine.ee")
    assert str(caught.value) == (
        f"{tmp_path / name} holds weights, no network; pass the torch module that has loaded them, in a shell "
        f"--model MODULE:FUNCTION --weights {tmp_path / name}"
    )


def test_damaged_weights_are_refused_or_read(tmp_path: Path) -> None:
    path, rng = tmp_path / "w.pt", np.random.default_rng(0)
    torch.save({"a": torch.rand(2, 2)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            _read_weights(path)
        except ee.ExportError as error:
            assert str(error).startswith(str(path))

"""`manifest.json` is decoded once, strictly, and what is encoded comes back as it was."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import plans
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eetoolkit_runtime.errors import ManifestError
from eetoolkit_runtime.plan import types
from eetoolkit_runtime.plan.manifest import decode, encode, json_schema
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.plan.validate import validate

DOCS = Path(__file__).parent.parent / "docs"

STRUCTS = [
    value for value in vars(types).values()
    if isinstance(value, type) and issubclass(value, msgspec.Struct) and not value.__name__.startswith("_")
]  # fmt: skip

# Manifests of every shape that the types allow; `validate` would refuse most of them.

names = st.text(max_size=5)
counts = st.integers(0, 2**53 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
sizes = st.integers(0, 2**31 - 1)
dims = st.one_of(sizes, names, st.none())
shapes = st.lists(dims, max_size=3).map(tuple)
dtypes = st.sampled_from(get_args(types.DType))


def keyed(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(names, values, max_size=3)


def several(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=3).map(tuple)


tensors = st.builds(types.TensorSpec, name=names, dtype=dtypes, shape=shapes)
slots = st.builds(types.Slot, dtype=dtypes, shape=shapes)
constants = st.builds(
    types.Constant,
    dtype=dtypes,
    shape=several(sizes),
    data=several(st.one_of(floats, st.integers(-(2**63), 2**64 - 1), st.booleans(), st.just("9007199254740993"))),
)
sources = st.sampled_from(["output", "slot", "constant"]).flatmap(
    lambda origin: names.map(lambda name: types.Source(**{origin: name}))
)
criteria = st.builds(
    types.Criterion,
    kind=st.sampled_from(get_args(types.CriterionKind)),
    output=st.none() | names,
    scale=st.sampled_from(get_args(types.Scale)),
    axis=st.integers(-4, 4),
    quantile=st.none() | st.floats(0, 1),
    temperature=st.none() | names | floats,
    tau=st.none() | names | floats,
    weights=st.none() | names | several(floats),
    bias=st.none() | names | several(floats),
    invert=st.booleans(),
    n=st.none() | st.integers(1, 2**31 - 1),
    members=several(st.builds(types.Criterion, kind=st.just("max_prob"), threshold=st.none() | names | floats)),
    function=st.none() | names,
)
exits = st.builds(
    types.Exit,
    name=names,
    outputs=keyed(names),
    scores=st.none() | st.builds(types.ClassScores, output=names, scale=st.sampled_from(["logits", "probs"])),
    criterion=criteria,
    confidence=names,
    threshold=st.sampled_from(["never", "always"]) | floats,
)
nexts = st.one_of(
    st.builds(types.Goto, segment=names),
    st.builds(types.Gate, on=names, then=names, otherwise=names),
    st.builds(types.Switch, on=names, cases=several(names)),
    st.builds(types.Stop),
)
segments = st.builds(
    types.Segment,
    model=st.none() | names,
    weights=several(names),
    reads=keyed(names),
    writes=keyed(sources),
    exit=st.none() | exits,
    next=nexts,
    max_visits=st.none() | st.integers(1, 2**20),
    work=st.none() | st.builds(types.Work, nodes=counts, parameters=counts, multiply_adds=st.none() | counts),
)
files = st.builds(types.File, sha256=st.text("0123456789abcdef", min_size=64, max_size=64), size=counts)
preprocesses = st.builds(
    types.Preprocess,
    layout=st.sampled_from(["NCHW", "NHWC"]),
    resize=st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    scale=floats,
    mean=several(floats),
    std=several(floats),
)
quantizations = st.builds(
    types.Quantization,
    segments=keyed(st.sampled_from(get_args(types.Method))),
    activations=st.sampled_from([None, *get_args(types.Activations)]),
    rows=counts,
    created_with=keyed(names | counts),
    stale=st.booleans(),
)
splits = st.builds(
    types.Split,
    exit=names,
    local=names,
    answers=several(names),
    sends=keyed(names),
    model=names,
    version=counts,
    exits=several(
        st.builds(
            types.ServerExit,
            name=names,
            scores=st.none() | st.builds(types.ClassScores, output=names),
            threshold=st.sampled_from(["never", "always"]) | floats,
            path=st.none() | several(names),
        )
    ),
    segments=counts,
)
manifests = st.builds(
    Manifest,
    format=st.just("eetoolkit-bundle"),
    version=st.just(2),
    name=names,
    created_with=keyed(names | counts),
    onnxruntime=st.none() | st.from_regex(r"[0-9]{1,4}\.[0-9]{1,4}", fullmatch=True, alphabet="0123456789."),
    inputs=several(tensors),
    outputs=several(tensors),
    preprocess=keyed(preprocesses),
    labels=st.none() | several(names),
    titles=keyed(names),
    slots=keyed(slots),
    constants=keyed(constants),
    batch=st.sampled_from([None, 1]),
    start=names,
    fallback=st.sampled_from(get_args(types.Fallback)),
    segments=keyed(segments),
    files=keyed(files),
    golden=st.none() | st.builds(types.Golden, file=names, tolerance=st.floats(1e-12, 1e3)),
    notes=several(names),
    quantization=st.none() | quantizations,
    split=st.none() | splits,
)


@given(manifests)
@settings(max_examples=150, deadline=None)
def test_a_manifest_that_was_encoded_is_decoded_as_it_was(manifest: Manifest) -> None:
    assert repr(decode(encode(manifest))) == repr(manifest)  # repr: 1, 1.0 and True differ, and so do orders of keys


@given(manifests)
@settings(max_examples=30, deadline=None)
def test_encoding_gives_the_same_bytes_each_time(manifest: Manifest) -> None:
    assert encode(decode(encode(manifest))) == encode(manifest)


@given(manifests, st.data())
@settings(max_examples=150, deadline=None)
def test_a_manifest_broken_anywhere_is_a_manifest_error_or_a_manifest(manifest: Manifest, data: st.DataObject) -> None:
    text = bytearray(encode(manifest))
    place = data.draw(st.integers(0, len(text) - 1))
    text[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        validate(decode(bytes(text)))
    except ManifestError as error:
        assert str(error)


@given(st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_bytes_that_are_no_manifest_are_a_manifest_error(text: bytes) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json: "):
        decode(text)


def full() -> dict[str, Any]:
    """Returns a manifest with every key in it, as JSON values."""
    digest = {"sha256": "0" * 64, "size": 1}
    return {
        "format": "eetoolkit-bundle",
        "version": 2,
        "name": "full",
        "created_with": {"eetoolkit": "0.1.0", "opset": 20},
        "onnxruntime": "1.18",
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3, 8, 8]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 10]}],
        "limits": {"batch": {"min": 1, "max": 64}},
        "preprocess": {"x": {"layout": "NCHW", "resize": [8, 8], "scale": 0.5, "mean": [0, 0, 0], "std": [1, 1, 1]}},
        "labels": ["zero", "one"],
        "titles": {"x": "input image", "early": "exit::early"},
        "slots": {
            "y": {"dtype": "float32", "shape": ["batch", 10]},
            "sure": {"dtype": "float32", "shape": ["batch"]},
            "open": {"dtype": "bool", "shape": ["batch"]},
            "any": {"dtype": "float32", "shape": [None]},
        },
        "constants": {
            "t": {"dtype": "float32", "shape": [], "data": [1.5]},
            "w": {"dtype": "float32", "shape": [2], "data": [1.5, 2.5]},
        },
        "batch": 1,
        "start": "a",
        "fallback": "most_confident",
        "segments": {
            "a": {
                "model": "a.onnx",
                "weights": ["a.bin"], "prepack": False,
                "reads": {"image": "x", "t": "t"},
                "writes": {"y": {"output": "out"}, "sure": {"output": "sure"}, "open": {"output": "open"}},
                "exit": {
                    "name": "early",
                    "outputs": {"logits": "y"},
                    "scores": {"output": "logits", "scale": "probs", "axis": 2},
                    "criterion": {
                        "kind": "margin", "output": "logits", "scale": "probs", "axis": 1, "quantile": 0.5,
                        "temperature": "t", "tau": "t", "weights": "w", "bias": "w", "invert": True, "n": 1,
                        "members": [{"kind": "entropy", "threshold": "t"}], "function": "module.function",
                    },
                    "confidence": "sure",
                    "threshold": 0.9,
                },
                "next": {"kind": "gate", "on": "open", "then": "a", "else": "b"},
                "max_visits": 3,
                "work": {"nodes": 1, "parameters": 2, "multiply_adds": 3},
            },
            "b": {
                "exit": {
                    "name": "last", "outputs": {"logits": "y"}, "criterion": {"kind": "entropy"}, "confidence": "sure",
                    "threshold": "always",
                },
                "next": {"kind": "stop"},
            },
        },
        "files": {"a.onnx": digest, "a.bin": digest, "golden.safetensors": digest, "profile.json": digest},
        "golden": {"file": "golden.safetensors", "tolerance": 1e-4},
        "profile": {"file": "profile.json", "expected_ms": {"a": 0.25}},
        "tuning": {
            "goal": "least cost", "metric": "accuracy", "costs": "a profile", "seed": 0, "rows": {"tune": 7, "test": 3},
            "figures": {"score": [0.5, 0.25, 0.75]},
            "guarantee": {
                "method": "ltt", "loss": "wrong", "risk": 0.01, "delta": 0.05, "rows": 500, "found": 0.0,
                "bound": 0.006, "passed": True, "assumptions": ["drawn independently"],
            },
            "thresholds": {"first": "never"}, "exits_before": {"first": 0.5, "second": "never"},
            "constants_before": {"t": [1.0]},
        },
        "quantization": {
            "segments": {"a": "static"}, "activations": "uint8", "rows": 64,
            "created_with": {"onnxruntime": "1.23.2", "block_size": 128}, "stale": True,
        },
        "split": {
            "exit": "last", "local": "early", "answers": ["logits"], "sends": {"y": "logits"}, "model": "net-tail",
            "version": 7, "segments": 3,
            "exits": [{"name": "end", "scores": {"output": "logits"}, "threshold": "always", "path": ["c"]}],
        },
        "notes": ["a note"],
    }  # fmt: skip


def text_of(manifest: object) -> bytes:
    return json.dumps(manifest).encode()


def changed(path: str, value: object) -> bytes:
    """Returns the full manifest with the value at a path replaced or added."""
    manifest: Any = full()
    *parents, last = path.split("/")
    place = manifest
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    return text_of(manifest)


def refusal(text: bytes) -> str:
    """Returns the text of the error."""
    with pytest.raises(ManifestError) as caught:
        decode(text)
    return str(caught.value)


def test_the_full_manifest_is_a_valid_plan() -> None:
    validate(decode(text_of(full())))


def test_the_full_manifest_has_every_key() -> None:
    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*map(keys, value.values()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    fields = {field.encode_name for struct in STRUCTS for field in msgspec.structs.fields(struct)}
    sources_and_next = {"slot", "constant", "segment", "cases"}
    assert fields - keys(full()) == sources_and_next


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("", ""),
        ("inputs/0/", "$.inputs[0]"),
        ("preprocess/x/", "$.preprocess[...]"),
        ("slots/y/", "$.slots[...]"),
        ("constants/t/", "$.constants[...]"),
        ("segments/a/", "$.segments[...]"),
        ("segments/a/writes/y/", "$.segments[...].writes[...]"),
        ("segments/a/exit/", "$.segments[...].exit"),
        ("segments/a/exit/criterion/", "$.segments[...].exit.criterion"),
        ("segments/a/next/", "$.segments[...].next"),
        ("segments/a/work/", "$.segments[...].work"),
        ("files/a.onnx/", "$.files[...]"),
        ("golden/", "$.golden"),
        ("quantization/", "$.quantization"),
        ("split/", "$.split"),
        ("split/exits/0/", "$.split.exits[0]"),
    ],
)
def test_a_key_that_nobody_knows_is_refused_at_every_level(place: str, where: str) -> None:
    message = refusal(changed(f"{place}surprise", 1))
    assert "unknown field `surprise`" in message
    assert where in message


@pytest.mark.parametrize("key", ["format", "version", "name", "created_with", "inputs", "slots", "start", "segments"])
def test_a_manifest_without_a_required_key_is_refused(key: str) -> None:
    manifest = full()
    del manifest[key]
    assert f"`{key}`" in refusal(text_of(manifest)) or f'"{key}" is None' in refusal(text_of(manifest))


@pytest.mark.parametrize("needed", ["", "1", "1.20.1", ">=1.20", "1.x", " 1.20", "-1.20", 1.2])
def test_the_least_onnxruntime_is_two_numbers(needed: object) -> None:
    assert "`$.onnxruntime`" in refusal(changed("onnxruntime", needed))


def test_keys_listed_as_optional_are_ignored() -> None:
    text = text_of(full() | {"optional": ["mood", "more"], "mood": {"any": ["thing"]}})
    assert decode(text) == decode(text_of(full()))


def test_an_optional_key_is_ignored_at_the_top_level_only() -> None:
    manifest = full() | {"optional": ["mood"]}
    manifest["golden"]["mood"] = 1
    assert "unknown field `mood` - at `$.golden`" in refusal(text_of(manifest))


def test_a_key_of_this_version_cannot_be_made_optional() -> None:
    message = refusal(text_of(full() | {"optional": ["segments"]}))
    assert message == "manifest.json: \"optional\" lists 'segments', which is not optional"


def test_another_format_is_named_before_anything_else_is_read() -> None:
    message = refusal(b'{"format": "zip", "version": 7, "surprise": 1}')
    assert message == "manifest.json: \"format\" is 'zip', expected 'eetoolkit-bundle'"


def test_json_without_a_format_is_no_manifest() -> None:
    assert refusal(b"{}") == "manifest.json: \"format\" is None, expected 'eetoolkit-bundle'"


def test_a_newer_version_is_refused_with_the_fix_although_its_keys_are_unknown() -> None:
    message = refusal(text_of(full() | {"version": 3, "surprise": 1}))
    assert message == 'manifest.json: "version" is 3, this eetoolkit reads 2; update eetoolkit'


def test_an_older_version_is_refused_with_another_fix() -> None:
    message = refusal(text_of(full() | {"version": 1, "surprise": 1}))
    assert message == 'manifest.json: "version" is 1, this eetoolkit reads 2; export the network again'


def test_a_key_that_stands_twice_is_refused_at_the_top() -> None:
    message = refusal(text_of(full())[:-1] + b', "start": "b"}')
    assert message == "manifest.json: the key 'start' stands twice in one object"


def test_a_key_that_stands_twice_is_refused_deep_inside() -> None:
    text = text_of(full()).replace(b'"threshold": 0.9', b'"threshold": 0.9, "thr\\u0065shold": 0.1')
    assert refusal(text) == "manifest.json: the key 'threshold' stands twice in one object"


def test_a_key_that_stands_twice_is_refused_in_what_is_ignored() -> None:
    text = text_of(full() | {"optional": ["mood"], "mood": {"a": 1}}).replace(b'{"a": 1}', b'{"a": 1, "a": 1e999}')
    assert refusal(text) == "manifest.json: the key 'a' stands twice in one object"


@pytest.mark.parametrize("note", ['":', ":", '": "start": ', "\\", '\\": {"', '\\\\":', "\u00e9\n:"])
def test_texts_that_look_like_keys_are_none(note: str) -> None:
    manifest = full() | {"notes": [note, note], "labels": [note, ":" + note]}
    for text in (text_of(manifest), json.dumps(manifest, separators=(",", ":")).encode()):
        assert decode(text).notes == (note, note)
        assert "'name' stands twice" in refusal(text[:-1] + b', "name" : "a"}')


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("name", 1, "Expected `str`, got `int` - at `$.name`"),
        ("version", "1", "Expected `int | null`, got `str` - at `$.version`"),
        ("version", True, "Expected `int | null`, got `bool` - at `$.version`"),
        ("inputs", {}, "Expected `array`, got `object` - at `$.inputs`"),
        ("inputs/0/dtype", "float", "Invalid enum value 'float' - at `$.inputs[0].dtype`"),
        ("inputs/0/shape/1", -3, "Expected `int` >= 0 - at `$.inputs[0].shape[1]`"),
        ("inputs/0/shape/1", 3.5, "got `float` - at `$.inputs[0].shape[1]`"),
        ("inputs/0/shape/1", True, "got `bool` - at `$.inputs[0].shape[1]`"),
        ("constants/t/shape", ["n"], "Expected `int`, got `str` - at `$.constants[...].shape[0]`"),
        ("constants/t/shape", [None], "Expected `int`, got `null` - at `$.constants[...].shape[0]`"),
        ("constants/t/data", [None], "got `null` - at `$.constants[...].data[0]`"),
        ("batch", 2, "- at `$.batch`"),
        ("fallback", "first", "Invalid enum value 'first' - at `$.fallback`"),
        ("segments/a/next", {"on": "open"}, "missing required field `kind` - at `$.segments[...].next`"),
        ("segments/a/next/kind", "jump", "Invalid value 'jump' - at `$.segments[...].next.kind`"),
        ("segments/a/next", {"kind": "gate", "on": "open", "then": "a"}, "missing required field `else`"),
        ("segments/a/max_visits", 0, "Expected `int` >= 1 - at `$.segments[...].max_visits`"),
        ("segments/a/exit/threshold", "0.9", "Invalid enum value '0.9' - at `$.segments[...].exit.threshold`"),
        ("segments/a/exit/threshold", None, "got `null` - at `$.segments[...].exit.threshold`"),
        ("segments/a/exit/criterion/kind", "luck", "Invalid enum value 'luck'"),
        ("segments/a/exit/criterion/quantile", 1.5, "Expected `float` <= 1.0"),
        ("segments/a/work/nodes", 2**53, "Expected `int` <= 9007199254740991 - at `$.segments[...].work.nodes`"),
        ("segments/a/work/nodes", 3.0, "got `float` - at `$.segments[...].work.nodes`"),
        ("segments/a/exit/criterion/axis", 2**53, "Expected `int` <= 31"),
        ("created_with/opset", 2**53, "- at `$.created_with[...]`"),
        ("tuning/seed", 2**53, "Expected `int` <= 9007199254740991 - at `$.tuning.seed`"),
        ("segments/a/work/nodes", -1, "Expected `int` >= 0 - at `$.segments[...].work.nodes`"),
        ("files", {"a": {"sha256": "0" * 63, "size": 1}}, "- at `$.files[...].sha256`"),
        ("files", {"a": {"sha256": "F" * 64, "size": 1}}, "- at `$.files[...].sha256`"),
        ("files", {"a": {"sha256": "0" * 64, "size": -1}}, "Expected `int` >= 0 - at `$.files[...].size`"),
        ("golden/tolerance", 0, "Expected `float` > 0.0 - at `$.golden.tolerance`"),
        ("quantization/segments/a", "int4", "Invalid enum value 'int4' - at `$.quantization.segments[...]`"),
        ("quantization/activations", "int16", "Invalid enum value 'int16' - at `$.quantization.activations`"),
        ("quantization/rows", -1, "Expected `int` >= 0 - at `$.quantization.rows`"),
        ("quantization/created_with/block_size", 2**53, "- at `$.quantization.created_with[...]`"),
        ("split/version", 2**53, "Expected `int` <= 9007199254740991 - at `$.split.version`"),
        ("split/segments", -1, "Expected `int` >= 0 - at `$.split.segments`"),
        ("split/sends", ["y"], "Expected `object`, got `array` - at `$.split.sends`"),
        ("split/exits/0/path", "c", "Expected `array | null`, got `str` - at `$.split.exits[0].path`"),
        ("split/exits/0/threshold", "no", "Invalid enum value 'no' - at `$.split.exits[0].threshold`"),
        ("preprocess/x/layout", "HWC", "Invalid enum value 'HWC' - at `$.preprocess[...].layout`"),
        ("preprocess/x/resize", [8], "- at `$.preprocess[...].resize`"),
        ("preprocess/x/resize", [0, 8], "Expected `int` >= 1 - at `$.preprocess[...].resize[0]`"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_with_its_place(path: str, value: object, text: str) -> None:
    message = refusal(changed(path, value))
    assert message.startswith("manifest.json: ")
    assert text in message


@pytest.mark.parametrize("source", [{}, {"output": "out", "slot": "y"}, {"output": "o", "slot": "y", "constant": "t"}])
def test_a_write_names_exactly_one_source(source: dict[str, str]) -> None:
    message = refusal(changed("segments/a/writes/y", source))
    assert "a source names exactly one of `output`, `slot`, `constant` - at `$.segments[...].writes[...]`" in message


@pytest.mark.parametrize("literal", ["1e400", "-1e400", "1" * 400])
@pytest.mark.parametrize(
    "place", [b'"threshold": %s', b'"expected_ms": {"a": %s', b'"score": [%s', b'"scale": %s', b'"temperature": %s']
)
def test_numbers_beyond_double_precision_are_refused(place: bytes, literal: str) -> None:
    text = re.sub(re.escape(place).replace(b"%s", rb"[^,}\]]+"), place % literal.encode(), text_of(full()), count=1)
    with pytest.raises(ManifestError, match=r"out of range|not finite|got `int`|got `float`"):
        validate(decode(text))


def test_half_a_surrogate_pair_is_refused() -> None:
    assert refusal(text_of(full() | {"notes": ["\ud800"]})).startswith("manifest.json: ")


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(literal: str) -> None:
    text = text_of(full()).replace(b'"threshold": 0.9', f'"threshold": {literal}'.encode())
    assert refusal(text).startswith("manifest.json: JSON is malformed")


def test_a_number_beyond_every_float_is_refused() -> None:
    text = text_of(full()).replace(b'"threshold": 0.9', b'"threshold": 1e999')
    with pytest.raises(ManifestError):  # read as infinity, it would never fire and be written back as null
        validate(decode(text))


def test_an_integer_of_thousands_of_digits_is_refused() -> None:
    assert refusal(text_of(full())[:-1] + b', "surprise": ' + b"1" * 5000 + b"}").startswith("manifest.json: ")


def test_a_manifest_nested_without_end_is_refused() -> None:
    assert refusal(b'{"name": ' + b"[" * 100_000).startswith("manifest.json: ")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_constant_that_json_cannot_hold_is_refused_when_it_is_written(value: float) -> None:
    draft = plans.chain()
    draft.constant("mask", "float32", [value])
    with pytest.raises(ManifestError, match="mask"):
        encode(draft.plan())


def test_an_infinite_threshold_is_not_written_as_null() -> None:
    with pytest.raises(ManifestError, match="exit0"):
        encode(plans.chain(np.inf).plan())


def test_values_are_frozen() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        decode(text_of(full())).name = "another"


def test_exits_come_by_name_in_the_order_of_their_first_segment() -> None:
    assert list(plans.one_name_twice().plan().exits) == ["early", "last"]


def test_keys_at_their_defaults_are_left_out() -> None:
    manifest = json.loads(encode(plans.joined().plan()))
    assert manifest["segments"]["join"] == {
        "writes": {"y": {"slot": "inner"}},
        "next": {"kind": "goto", "segment": "head"},
    }
    assert manifest.keys().isdisjoint({"batch", "fallback", "golden", "labels", "notes", "preprocess"})


def test_the_committed_json_schema_is_that_of_the_types() -> None:
    committed = (DOCS / "bundle-format.schema.json").read_bytes()
    assert committed == json_schema(), (
        "write eetoolkit_runtime.plan.manifest.json_schema() to docs/bundle-format.schema.json"
    )


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_the_specification_names_every_key(struct: type[msgspec.Struct]) -> None:
    document = (DOCS / "bundle-format.md").read_text(encoding="utf-8")
    missing = [
        field.encode_name for field in msgspec.structs.fields(struct) if f"`{field.encode_name}`" not in document
    ]
    assert not missing


@pytest.mark.parametrize(
    "values", [types.DType, types.CriterionKind, types.Scale, types.Fallback, types.Method, types.Activations]
)
def test_the_specification_names_every_value_of_a_closed_set(values: object) -> None:
    document = (DOCS / "bundle-format.md").read_text(encoding="utf-8")
    assert not [value for value in get_args(values) if f"`{value}`" not in document]

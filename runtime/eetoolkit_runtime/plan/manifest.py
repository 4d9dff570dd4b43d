"""`manifest.json` as text: read strictly into the plan's types, and written with its digest."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from eetoolkit_runtime.errors import ManifestError
from eetoolkit_runtime.files.json_keys import refuse_twice
from eetoolkit_runtime.plan.seal import DIGEST, check_seal, seal
from eetoolkit_runtime.plan.types import FORMAT, MANIFEST, MANIFEST_LIMIT_BYTES, VERSION, Manifest


class Head(msgspec.Struct):
    """The keys that say whether the rest can be read at all."""

    format: str | None = None
    version: int | None = None


class _Head(Head):
    """And those of the manifest that a reader may leave unread."""

    optional: tuple[str, ...] = ()


def decode(text: bytes) -> Manifest:
    """Returns the manifest in `text` (UTF-8 JSON), its types checked; `validate` checks the rest.

    Top-level keys that a newer minor version lists under `"optional"` are ignored.

    Raises:
        ManifestError: Not JSON, a key twice, another format or version, an unknown key, a wrong type.
    """
    if len(text) > MANIFEST_LIMIT_BYTES:
        raise ManifestError(f"manifest.json: {len(text)} bytes, a manifest has at most {MANIFEST_LIMIT_BYTES}")
    try:
        head = _head(text)
        keys = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        for name in ("optional", *head.optional):
            if name in Manifest.__struct_fields__:
                raise ManifestError(f'manifest.json: "optional" lists {name!r}, which is not optional')
            keys.pop(name, None)
        keys.pop(DIGEST, None)
        plan = msgspec.json.decode(msgspec.json.encode(keys), type=Manifest)
        if head.optional or _count_keys(text) > _count_keys(msgspec.json.encode(msgspec.json.decode(text))):
            import json  # in over a millisecond, which no manifest that we write needs

            json.loads(text, object_pairs_hook=refuse_twice)  # at last: it builds whatever lies in the text
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ManifestError(f"manifest.json: {error}") from error
    return plan


def decode_sealed(text: bytes, what: str, fix: str) -> Manifest:
    """Returns the manifest in `text` as `decode` does, once its digest was found right.

    Args:
        text: What a writer of ours has written.
        what: Names it in errors.
        fix: What to do where it was changed.

    Raises:
        ManifestError: As `decode`.
        IntegrityError: It was changed since it was written.
    """
    try:
        _head(text, what)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ManifestError(f"{what}: damaged ({error}); {fix}") from error
    check_seal(text, what, fix)
    return decode(text)


def _head(text: bytes, what: str = MANIFEST) -> _Head:
    """Returns the keys that are read before all else."""
    head = msgspec.json.decode(text, type=_Head)
    check_head(head, FORMAT, VERSION, what, "export the network again")
    return head


def check_head(head: Head, expected: str, version: int, what: str, again: str) -> None:
    """Refuses a text of another format or version.

    Args:
        head: What the text says.
        expected: The format.
        version: The one that is read.
        what: Names the text in errors.
        again: How one of an older version is made anew.

    Raises:
        ManifestError: It is of another.
    """
    if head.format != expected:
        raise ManifestError(f'{what}: "format" is {head.format!r}, expected {expected!r}')
    if head.version != version:
        fix = again if head.version is not None and head.version < version else "update eetoolkit"
        raise ManifestError(f'{what}: "version" is {head.version!r}, this eetoolkit reads {version}; {fix}')


def encode(manifest: Manifest) -> bytes:
    """Returns the manifest as indented UTF-8 JSON with its digest; keys at their defaults are left out.

    Raises:
        ManifestError: A threshold or constant that JSON cannot hold, or more than a manifest may hold.
    """
    for name, exit_ in manifest.exits.items():
        if isinstance(exit_.threshold, float) and not math.isfinite(exit_.threshold):
            raise ManifestError(f"exit {name!r}: the threshold {exit_.threshold} is not finite; 'never' disables it")
    for name, constant in manifest.constants.items():
        if not all(math.isfinite(value) for value in constant.data if isinstance(value, float)):
            raise ManifestError(f"constant {name!r}: a value is not finite, which JSON cannot hold")
    text = seal(msgspec.json.encode(manifest))
    if len(text) > MANIFEST_LIMIT_BYTES:
        raise ManifestError(f"manifest.json: {len(text)} bytes, a manifest has at most {MANIFEST_LIMIT_BYTES}")
    return text


def json_schema() -> bytes:
    """Returns the JSON Schema of `manifest.json`, for other languages."""
    schema = msgspec.json.schema(Manifest)
    top = schema["$defs"]["Manifest"]
    top["properties"][DIGEST] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    top["required"].append(DIGEST)
    return schema_text(schema)


def schema_text(schema: dict[str, Any]) -> bytes:
    """Returns a JSON Schema of msgspec's as indented UTF-8 JSON."""
    import inspect

    for definition in schema["$defs"].values():
        if "description" in definition:  # which msgspec leaves as it stands in the code before 0.23
            definition["description"] = inspect.cleandoc(definition["description"])
    return msgspec.json.format(msgspec.json.encode(schema), indent=1) + b"\n"


def _count_keys(text: bytes) -> int:
    """Returns how many keys the objects in a JSON text have: fewer after decoding where one stood twice."""
    unescaped = re.sub(rb"\\.", b"", text)  # every quote that is left begins or ends a text
    return sum([after.lstrip().startswith(b":") for after in unescaped.split(b'"')[2::2]])

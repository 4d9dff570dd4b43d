"""What a quantised bundle meets on a processor, and thresholds that are still those of the float bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.doctor.finding import Finding
from eetoolkit_runtime.plan.types import Quantization
from eetoolkit_runtime.profiling.machine import instructions

_X86, _ARM = "sse2", "asimd"
_X86_DOTS = {"avx512_vnni", "avx_vnni"}
_ARM_DOT = "asimddp"


def quantized_findings(bundle: Bundle, root: Path = Path("/")) -> Iterator[Finding]:
    """Yields what to know of a bundle's quantised segments here; nothing of one without any.

    Args:
        bundle: The bundle.
        root: Where `/proc` is.
    """
    said = bundle.manifest.quantization
    if said is None:
        return
    if said.stale:
        fix = f"eetoolkit tune {bundle.place} --data DATA --apply"
        what = "they and the temperatures are still those of the float bundle"
        yield Finding(name="thresholds", state="warning", what=what, fix=fix)
    if set(said.segments.values()) != {"float16"}:
        yield from _eight_bits(said, instructions(root))


def _eight_bits(said: Quantization, has: frozenset[str]) -> Iterator[Finding]:
    if _X86 in has and has & _X86_DOTS:
        yield Finding(name="int8", what="this processor has VNNI")
    elif _X86 in has and _saturates(said):
        yield Finding(
            name="int8", state="warning",
            what="this processor has no VNNI: sums of uint8 times int8 saturate at 16 bits, and answers may differ",
            fix="quantise with --reduce-range, or on this machine, and look at the agreement",
        )  # fmt: skip
    elif _X86 in has:
        yield Finding(name="int8", what="this processor has no VNNI, with which these segments would be faster")
    elif _ARM in has and _ARM_DOT in has:
        yield Finding(name="int8", what="this processor has the dot product of 8 bits (asimddp)")
    elif _ARM in has:
        yield Finding(
            name="int8", state="warning",
            what="this processor has no dot product of 8 bits (asimddp): int8 may be no faster than float",
            fix="eetoolkit profile both bundles here, and quantise the float one with --profile of this machine",
        )  # fmt: skip


def _saturates(said: Quantization) -> bool:
    """Whether weights of 8 bits meet activations in uint8: of static segments as they say, of dynamic ones always."""
    methods = set(said.segments.values())
    uint8 = said.activations == "uint8" or "dynamic" in methods
    return uint8 and said.created_with.get("reduce_range") != 1

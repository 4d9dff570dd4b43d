"""Which profiles are taken for the costs of segments."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from plans import chain

import eetoolkit as ee
from eetoolkit.quantizing.deciding import Task, decide
from eetoolkit.quantizing.measuring import Costs, Variant, measure
from eetoolkit.quantizing.rows import Part, Parts
from eetoolkit_exporters.quantizing.candidates import Candidates

edit = msgspec.structs.replace
ROW = np.zeros((1, 4), np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    return ee.load(chain(0.5).save(tmp_path_factory.mktemp("measuring") / "chain.ee"))


@pytest.fixture(scope="module")
def profile(bundle: ee.Bundle) -> ee.Profile:
    return ee.profile(bundle, ROW, seconds=0, threads=1)


@pytest.mark.parametrize("threads", [1, 2])
def test_profiles_of_two_devices_or_settings_are_refused(threads: int, bundle: ee.Bundle, profile: ee.Profile) -> None:
    there = edit(profile, machine=edit(profile.machine, processor="Cortex-A76"))
    other = there if threads == 1 else edit(profile, threads=2)
    variants = [Variant(bundle, dict.fromkeys(bundle.manifest.segments, "float"))]
    with pytest.raises(ee.TuneError, match=r"profiles are of .* and of .*: measure both bundles on one device"):
        measure(variants, lambda: iter([ROW]), [profile, other], seconds=0, threads=1, tell=lambda *_: None)


def test_what_measures_another_bundle_is_refused(bundle: ee.Bundle, profile: ee.Profile) -> None:
    def wrong(_: ee.Bundle) -> ee.Profile:
        return edit(profile, files={})

    variants = [Variant(bundle, dict.fromkeys(bundle.manifest.segments, "float"))]
    with pytest.raises(ee.TuneError, match=r"no profile is of .*chain\.ee"):
        measure(variants, lambda: iter([ROW]), wrong, seconds=0, threads=1, tell=lambda *_: None)


def test_a_segment_whose_quantised_form_no_profile_has_is_not_called_one_that_cannot_be(
    bundle: ee.Bundle, tmp_path: Path
) -> None:
    name, segment = next(iter(bundle.manifest.segments.items()))
    part = Part((ROW,), None)
    made = Candidates(bundle, tmp_path, "uint8", by_method={name: {"static": segment}})
    task = Task(bundle, Parts(part, part, part, None), made, "int8", 0.5, 1, lambda *_: None)
    assert decide(task, Costs({(name, "float"): 1.0}, {name: 1.0}, "a Pi", here=False)).why == {
        name: "its quantised form was not measured"
    }

"""That what a device's half says of its handover is so in the plan."""

from __future__ import annotations

from eetoolkit_runtime.errors import ManifestError
from eetoolkit_runtime.plan.types import Manifest


def check_split(plan: Manifest) -> None:
    """Proves that the exit at which a plan hands over ends it, and gives what is to cross and to stand in.

    Raises:
        ManifestError: Says what is not so.
    """
    split = plan.split
    if split is None:
        return
    exit_ = plan.exits.get(split.exit)
    if exit_ is None or not exit_.ends:
        raise ManifestError(
            f"manifest.json: split hands over at {split.exit!r}, which is not an exit that ends the plan"
        )
    if split.local not in plan.exits or split.local == split.exit:
        raise ManifestError(f"manifest.json: split stands in for {split.local!r}, which is not another exit")
    for key, values in (("answers", split.answers), ("sends", split.sends), ("exits", split.exits)):
        if not values:
            raise ManifestError(f"manifest.json: split: {key!r} is empty")
    for name in (*split.answers, *split.sends.values()):
        if name not in exit_.outputs:
            raise ManifestError(f"manifest.json: split takes {name!r}, which is not an output of {split.exit!r}")
    if len({each.name for each in split.exits}) != len(split.exits):
        raise ManifestError("manifest.json: split: two exits of one name")

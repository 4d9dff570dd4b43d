"""A small report of an adapted network."""

from __future__ import annotations

import msgspec

from eetoolkit.adapting.report import AdaptReport, HeadFigures, PlaceFigures

edit = msgspec.structs.replace


def small(pays: bool | None = False) -> AdaptReport:
    """Returns the report of a network with two places, of which the first became an exit where early exits pay."""
    heads = [HeadFigures(kind=kind, loss=0.5, accuracy=0.875, candidate=kind == "mean") for kind in ("mean", "first")]
    places = tuple(
        PlaceFigures(name=name, share=share, shape=("batch", 6), heads=tuple(heads))
        for name, share in (("body", 0.25), ("body.relu", 0.75))
    )
    if pays:
        kept = (edit(heads[0], exit="body"), heads[1])
        places = (edit(places[0], heads=kept), places[1])
    return AdaptReport(
        network="Net", max_accuracy_drop=0.01, rows={"fit": 80, "choose": 20, "tune": 100}, labelled=True, accuracy=0.9,
        places=places, pays=pays, reason="as a test wants it", notes=("a note",),
    )  # fmt: skip

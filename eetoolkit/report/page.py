"""The report: one HTML file that fetches nothing."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eetoolkit.adapting.report import PARTS as ADAPTING_PARTS
from eetoolkit.adapting.report import AdaptReport, spell_count
from eetoolkit.quantizing.report import PARTS as QUANTIZING_PARTS
from eetoolkit.quantizing.report import QuantizationReport
from eetoolkit.report import exit_charts, frontier, places_chart, quantize_charts, row_charts
from eetoolkit.report.examples import pictures
from eetoolkit.tuning.report import TuningReport, spell_guarantee
from eetoolkit.tuning.wording import Wording, percent, short
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.files.outfile import check_file, writing
from eetoolkit_runtime.printable import printable, spell_size
from eetoolkit_runtime.running.decision import spell_threshold

PARTS = {
    "calibrate": "fitted the temperatures (calibration)",
    "tune": "chose the thresholds (tuning)",
    "guarantee": "showed the guarantee",
    "test": "give every figure on this page (held-out)",
}
"""What the rows of each part did."""


def check_target(target: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Returns the path of a page that may be written, before any work is done for it.

    Raises:
        EEToolkitError: Something is there and `overwrite` is not set, or its folder is missing or closed.
        ModuleNotFoundError: The extra `report` is not installed.
    """
    for package in ("jinja2", "matplotlib"):
        importlib.import_module(package)
    return check_file(target, overwrite=overwrite)


@checked(InputError)
def write_report(
    report: TuningReport | AdaptReport | QuantizationReport,
    target: str | os.PathLike[str],
    *,
    inputs: Any = None,
    overwrite: bool = False,
) -> Path:
    """Writes a report as a page and returns its path.

    Args:
        report: What `tune` or `quantize` returned, or `Adapted.report`.
        target: An `.html` file.
        inputs: What was tuned by, `adapted.rows.inputs` of an `AdaptReport`, so that the page can show rows that left
            early and wrong, where they are pictures.
        overwrite: Whether to replace what is there.

    Raises:
        EEToolkitError: The file may not or cannot be written.
        BundleError: With `inputs`, the bundle is not where it was.
        InputError: Inputs that the bundle does not take, or that have other rows.
    """
    path = check_target(target, overwrite=overwrite)
    shown: dict[int, str] = {}
    tuning = report if isinstance(report, TuningReport) else report.tuning
    if inputs is not None and tuning is not None and tuning.mistakes:
        shown = pictures(load(tuning.path).manifest, inputs, [mistake.row for mistake in tuning.mistakes])
    text = render(report, shown)
    with writing(path, overwrite=overwrite) as file:
        file.write(text.encode())
    return path


def render(report: TuningReport | AdaptReport | QuantizationReport, shown: Mapping[int, str] | None = None) -> str:
    """Returns the page's text.

    Args:
        report: What `tune` or `quantize` returned, or `Adapted.report`.
        shown: Pictures of rows, as data URIs.
    """
    import jinja2

    # Names of bundles, classes, exits and files are their users': every one is escaped.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eetoolkit", "report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip
    tuning = report if isinstance(report, TuningReport) else report.tuning
    told = {"report": None, "charts": {}} if tuning is None else _tuning(tuning, shown or {})
    told |= {"adapted": None, "alone": tuning is report, "numbered": "in the data", "percent": percent, "short": short}
    if isinstance(report, AdaptReport):
        return environment.get_template("adapt.html").render(told | _adapted(report, told["charts"]))
    if isinstance(report, QuantizationReport):
        return environment.get_template("quantize.html").render(told | _quantized(report, told["charts"]))
    return environment.get_template("page.html").render(told)


def _adapted(report: AdaptReport, charts: dict[str, Any]) -> dict[str, Any]:
    """Returns what the sections about added exits speak of."""
    return {
        "adapted": report,
        "adapted_parts": ADAPTING_PARTS,
        "charts": charts | {"places": places_chart.places(report)},
        "count": spell_count,
        "numbered": "among the rows that exits were chosen by",
        "times": "{:.2f}".format,
    }


def _quantized(report: QuantizationReport, charts: dict[str, Any]) -> dict[str, Any]:
    """Returns what the sections about a quantised bundle speak of."""
    own = {"segments": quantize_charts.segments(report), "agreement": quantize_charts.exits(report)}
    return {
        "quantized": report,
        "quantized_parts": QUANTIZING_PARTS,
        "charts": charts | own,
        "numbered": "among the rows that tuned the thresholds",
        "quantized_say": Wording("accuracy", "ms"),
        "size": spell_size,
        "times": "{:.2f}".format,
    }


def _tuning(report: TuningReport, shown: Mapping[int, str]) -> dict[str, Any]:
    """Returns what the sections about a choice of thresholds speak of."""
    say = Wording(report.metric, report.unit, report.labels)
    return {
        "report": report,
        "say": say,
        "parts": PARTS,
        "least_rows": exit_charts.LEAST_ROWS,
        "spell_threshold": spell_threshold,
        "guarantee": None if report.guarantee is None else spell_guarantee(report.guarantee),
        "choices": (
            report.chosen,
            *([report.pruned] if report.pruned else ()),
            report.before,
            report.whole,
            *frontier.static_choices(report),
            *report.baselines,
        ),
        "pictures": shown,
        "classes": row_charts.most_hurt(report),
        "hurt": [each for each in report.classes if each.drop.low > 0],
        "charts": {
            "frontier": frontier.chart(report, say),
            "shares": exit_charts.shares(report, say),
            "reliabilities": list(exit_charts.reliabilities(report)),
            "confidences": list(exit_charts.confidences(report)),
            "classes": row_charts.classes(report, say),
            "costs": row_charts.costs(report, say),
        },
    }

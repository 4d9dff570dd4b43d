"""`eetoolkit pack`."""

from __future__ import annotations

from pathlib import Path

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.options import beside, json_option, overwrite_option
from eetoolkit.cli.outputs import Outputs
from eetoolkit.cli.verb import Verb


@click.command(
    cls=Verb,
    short_help="Pack a bundle into one .zip, or its plan into one .onnx.",
    examples=("eetoolkit pack digits.ee", "eetoolkit pack digits.ee --single-file -o digits.onnx"),
)
@click.argument("bundle")
@click.option(
    "-o", "--output", metavar="OUT", type=click.Path(path_type=Path), help="Where to write; default: beside BUNDLE."
)
@click.option("--single-file", is_flag=True, help="Write one ONNX file with nested If and Loop instead.")
@overwrite_option
@json_option
def pack(bundle: str, output: Path | None, single_file: bool, overwrite: bool, as_json: bool) -> None:
    """Pack BUNDLE into one .zip for transport, every file's hash checked.

    Every verb takes a packed bundle as well.

    With --single-file the whole plan becomes one ONNX file, for places that can load only one: any ONNX runtime answers
    with it as our runner does, one row a call. NAME.json beside NAME.onnx tells other languages its inputs, outputs,
    exits, labels and thresholds, and has golden samples: `eetoolkit verify NAME.onnx` checks it on any machine.
    """
    if output is not None and output.suffix == ".onnx" and not single_file:
        raise click.UsageError(f"{output} would be a .zip; one ONNX file is written by --single-file")
    from eetoolkit_runtime.files.paths import shown
    from eetoolkit_runtime.printable import spell_size
    from eetoolkit_runtime.single_file.description import description_path

    target = output or beside(bundle, ".onnx" if single_file else ".ee.zip")
    files = {"--output": target, **({"its description": description_path(target)} if single_file else {})}
    Outputs(files=files, reads=[bundle]).check(overwrite=overwrite)
    if single_file:
        ee.write_single_file(bundle, target, overwrite=overwrite)
        if (remark := ee.load(bundle).stale_remark) is not None:
            terminal.warn(remark)
    else:
        ee.load(bundle).pack(target, overwrite=overwrite)
    described = {"description": str(shown(description_path(target)))} if single_file else {}
    if as_json:
        terminal.print_json({"path": str(shown(target)), "size_bytes": target.stat().st_size, **described})
    else:
        beside_it = "".join(f", described by {path}" for path in described.values())
        terminal.say(f"{shown(target)}: {spell_size(target.stat().st_size)}{beside_it}")

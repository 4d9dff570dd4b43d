"""What the npm package's reader says of manifests, asked of one node process, and what Python says of them."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.plan.manifest import decode_sealed
from eetoolkit_runtime.plan.types import MANIFEST_LIMIT_BYTES
from eetoolkit_runtime.plan.validate import validate

FOLDER = Path(__file__).parents[1] / "runtime" / "web"
WHAT = "b.ee/manifest.json"
_FIX = (
    "copy or export the bundle again; if you have edited it, `eetoolkit verify BUNDLE --accept-edit` makes it the "
    "bundle's own"
)
# The reader is bundled here, since node reads no TypeScript; a question a line is a manifest in base64.
_PROGRAM = """
import { buildSync } from "esbuild";
import { createInterface } from "node:readline";
const entry = `export { readManifest } from "./src/manifest.ts"; export { sha256 } from "./src/hash.ts";
  export { folded, isPlain } from "./src/names.ts"; export * from "./src/printable.ts";`;
const { outputFiles } = buildSync({
  stdin: { contents: entry, resolveDir: ".", loader: "ts" },
  bundle: true, format: "esm", platform: "neutral", write: false,
});
const code = Buffer.from(outputFiles[0].contents).toString("base64");
const web = await import(`data:text/javascript;base64,${code}`);
const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\\n`);
for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...given] = JSON.parse(line);
  try {
    if (name === "readManifest") {
      await web.readManifest(new Uint8Array(Buffer.from(given[0], "base64")), given[1]);
      say(["OK", ""]);
    } else {
      say(given[0].map((text) => web[name](text)));
    }
  } catch (error) {
    say([error.name, error.message]);
  }
}
"""


def why_not() -> str:
    """Returns why node cannot be asked here; empty where it can."""
    if shutil.which("node") is None:
        return "the npm package is not tested: there is no node"
    if not (FOLDER / "node_modules" / "esbuild").exists():
        return "the npm package is not tested: its tools are missing; run `npm ci` in runtime/web"
    return ""


def ask(questions: Sequence[object]) -> list[Any]:
    """Returns what one node process answers to questions, each a function of the package and its arguments."""
    done = subprocess.run(
        ["node", "--input-type=module", "-e", _PROGRAM],
        input="".join(json.dumps(question) + "\n" for question in questions),
        capture_output=True, text=True, timeout=600, check=False, cwd=FOLDER,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"node ended with {done.returncode}:\n{done.stderr[-4000:]}")
    answers = [json.loads(line) for line in done.stdout.split("\n") if line]
    if len(answers) != len(questions):
        raise RuntimeError(f"node has answered {len(answers)} of {len(questions)} questions:\n{done.stderr[-4000:]}")
    return answers


def each(function: str, values: Sequence[str | float]) -> list[Any]:
    """Returns what a function of the package gives for each value."""
    (answers,) = ask([(function, values)])
    return list(answers)


def refusals(manifests: Sequence[bytes]) -> list[tuple[str, str]]:
    """Returns the class and the text of the error with which the npm package refuses each; "OK" where it does not."""
    asked = [("readManifest", base64.b64encode(manifest).decode(), WHAT) for manifest in manifests]
    return [(kind, text) for kind, text in ask(asked)]


def refusal(manifest: bytes) -> tuple[str, str]:
    """Returns the class and the text of the error with which Python refuses a manifest; "OK" where it does not."""
    if len(manifest) > MANIFEST_LIMIT_BYTES:  # as `read_regular` says
        return "IntegrityError", f"{WHAT} is over {MANIFEST_LIMIT_BYTES >> 20} MiB, more than such a file has"
    try:
        validate(decode_sealed(manifest, WHAT, _FIX))
    except EEToolkitError as error:
        return type(error).__name__, str(error)
    return "OK", ""

// `node build/conformance.node.mjs FOLDER [NAME...]` prints as JSON what each case of the folder found, and by what.

import { existsSync, readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { arch } from "node:os";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { answerCases } from "./conformance.js";

const MACHINES: Readonly<Record<string, string>> = { x64: "x86_64", arm64: "aarch64" };
const [folder = "", ...chosen] = process.argv.slice(2);
const names = readdirSync(folder).filter((name) => existsSync(join(folder, name, "case.json"))).sort();
const cases = await answerCases(
  (path) => readFile(join(folder, path)),
  chosen.length > 0 ? chosen : names,
  ort,
  undefined,
  { intraOpNumThreads: 1, interOpNumThreads: 1 },
);
const by = { node: process.versions.node, "onnxruntime-node": ort.env.versions.node };
console.log(JSON.stringify({ machine: MACHINES[arch()] ?? arch(), by, cases }));
process.exitCode = Object.values(cases).some(({ failures }) => failures.length > 0) ? 1 : 0;

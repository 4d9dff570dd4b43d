// onnxruntime-web's WASM, as it is in a browser, here in Node: one thread, external data mounted for all sessions at once.

import { readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as ort from "onnxruntime-web/wasm";
import { expect, test } from "vitest";
import { answerCases } from "../programs/conformance.js";
import { load } from "../src/index.js";
import { CASES, filesOf, put } from "./cases.js";

ort.env.wasm.numThreads = 1;

test("all cases are answered as Python does", async () => {
  const names = readdirSync(CASES).sort();
  const found = await answerCases((path) => readFile(join(CASES, path)), names, ort);
  expect(Object.entries(found).flatMap(([name, { failures }]) => failures.map((text) => `${name}: ${text}`))).toEqual([]);
});

test("runners that are opened and run at once do not meet in WASM", async () => {
  const one = filesOf("weights"), two = filesOf("weights");
  const name = [...two.keys()].find((each) => each.endsWith(".bin")) as string;
  const weights = Uint8Array.from(two.get(name) as Uint8Array);
  new Float32Array(weights.buffer).fill(0.25);
  put(two, name, weights);
  const answers = async (files: Map<string, Uint8Array>): Promise<string[]> => {
    const runner = await load(files, { ort });
    const rows = Array.from({ length: 5 }, (_, row) => [row, 0.2, -row, 0.4]);
    const found = await Promise.all(rows.map((row) => runner.runAllExits(row)));
    await runner.close();
    return found.flat().map(({ exit, outputs }) => `${exit} ${[...outputs.values()].map(({ data }) => String(data)).join()}`);
  };
  const first = await answers(one), second = await answers(two);
  expect(first).not.toEqual(second);
  expect(await Promise.all([answers(one), answers(two), answers(one), answers(two)])).toEqual([first, second, first, second]);
});

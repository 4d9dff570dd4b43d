import { readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { answerCases } from "../programs/conformance.js";
import { CASES, ONE_THREAD, ort } from "./cases.js";

const names = readdirSync(CASES).sort();

test("there are the cases that there are", () => {
  expect(names.length).toBe(38);
});

test.each(names)("answers the case %s as Python does", async (name) => {
  const found = await answerCases((path) => readFile(join(CASES, path)), [name], ort, undefined, ONE_THREAD);
  expect(found[name]?.failures).toEqual([]);
  expect(found[name]?.runs).toBeGreaterThan(0);
});

test("a case whose expected answer is another one fails", async () => {
  const read = async (path: string): Promise<Uint8Array> => {
    const bytes = await readFile(join(CASES, path));
    return path.endsWith("case.json") ? Buffer.from(bytes.toString().replace('"exit2"', '"exit1"')) : bytes;
  };
  const found = await answerCases(read, ["chain"], ort, undefined, ONE_THREAD);
  expect(found["chain"]?.failures.join()).toContain("expected");
});

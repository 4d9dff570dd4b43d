// Manifests as a browser reads them: tests/test_web_reading.py compares every refusal with Python's.

import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test, vi } from "vitest";
import { IntegrityError, ManifestError } from "../src/errors.js";
import { sha256 } from "../src/hash.js";
import { parse } from "../src/json.js";
import { readManifest } from "../src/manifest.js";
import { exitsOf } from "../src/plan.js";
import { flat } from "../src/printable.js";

const CASES = fileURLToPath(new URL("../../conformance/cases/", import.meta.url));
const WHAT = "digits.ee/manifest.json";

function manifest(name: string): string {
  return readFileSync(`${CASES}${name}/bundle/manifest.json`, "utf8");
}

function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

describe("a manifest of the conformance suite", () => {
  test.each(readdirSync(CASES).sort())("%s is read, and refused with another digest", async (name) => {
    const text = manifest(name);
    const plan = await readManifest(text, WHAT);
    const raw = JSON.parse(text) as { start: string; segments: object; files?: object; constants?: object };
    expect(plan.start).toBe(raw.start);
    expect([...plan.segments.keys()]).toEqual(Object.keys(raw.segments));
    expect([...plan.files.keys()]).toEqual(Object.keys(raw.files ?? {}));
    expect([...plan.constants.keys()]).toEqual(Object.keys(raw.constants ?? {}));
    expect(exitsOf(plan).size).toBeGreaterThan(0);
    expect(await readManifest(bytesOf(text), WHAT)).toEqual(plan);
    const other = text.replace('"name"', '"Name"');
    await expect(readManifest(other, WHAT)).rejects.toThrow(/^digits\.ee\/manifest\.json was changed: its digest is /);
    await expect(readManifest(other, WHAT)).rejects.toBeInstanceOf(IntegrityError);
  });
});

test("a plan has its defaults, and what its constants hold as numbers", async () => {
  const plan = await readManifest(manifest("chain"), WHAT);
  expect(plan).toMatchObject({ fallback: "last", labels: null, quantization: null });
  const { constants } = await readManifest(manifest("every_dtype"), WHAT);
  for (const { data } of constants.values()) for (const value of data) expect(typeof value).not.toBe("bigint");
});

test("layout does not count for the digest", async () => {
  const text = manifest("gate");
  const plan = await readManifest(text, WHAT);
  expect(await readManifest(text.replaceAll("\n", "\r\n\t"), WHAT)).toEqual(plan);
  expect(await readManifest(JSON.stringify(JSON.parse(text)), WHAT)).toEqual(plan);
});

test("a digest is the same without WebCrypto", async () => {
  const digests = new Map([
    ["", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    ["abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
    ["x".repeat(119), await sha256(bytesOf("x".repeat(119)))],
    ["x".repeat(100_000), await sha256(bytesOf("x".repeat(100_000)))],
  ]);
  for (const [text, digest] of digests) {
    expect(await sha256(bytesOf(text))).toBe(digest);
    expect(await sha256(bytesOf(text), null)).toBe(digest);
  }
  const view = new Uint8Array([1, 97, 98, 99, 2]).subarray(1, 4); // not from the beginning of its memory
  expect(await sha256(view, null)).toBe(digests.get("abc"));
  expect(await sha256(view)).toBe(digests.get("abc"));
});

describe("JSON", () => {
  test("keeps what an object of JavaScript would lose", () => {
    const { root } = parse(bytesOf('{"2": 1, "1": 1.0, "__proto__": 9007199254740993, "": -0}'));
    expect(root).toEqual(new Map<string, unknown>([["2", 1n], ["1", 1], ["__proto__", 9007199254740993n], ["", 0n]]));
    expect([...(root as ReadonlyMap<string, unknown>).keys()]).toEqual(["2", "1", "__proto__", ""]);
  });

  test("is compact without white space between tokens", () => {
    const { compact } = parse(bytesOf('\n{ "a b" :\t[ 1 , "\\" }" , { } , 1.50 ],"é":null}\r\n'));
    expect(compact).toBe('{"a b":[1,"\\" }",{},1.50],"\xc3\xa9":null}');
  });

  test("names the byte that is wrong", () => {
    expect(() => parse(bytesOf('{"é": tru}'))).toThrow("JSON is malformed: invalid character (byte 7)");
    expect(() => parse(bytesOf('{"é": "'))).toThrow("Input data was truncated");
  });

  test("that is nested without end is one typed error", async () => {
    for (const text of ["[".repeat(1e6), '{"a":'.repeat(1e6), `${"[".repeat(1e6)}${"]".repeat(1e6)}`]) {
      await expect(readManifest(text, WHAT)).rejects.toBeInstanceOf(ManifestError);
    }
  });

  test("of one long text or number is read in good time", async () => {
    for (const value of [`"${"\\\\".repeat(3e6)}"`, `"${" ".repeat(7e6)}"`, "1".repeat(7e6), `"${"é".repeat(3e5)}"`]) {
      await expect(readManifest(`{"format":${value}}`, WHAT)).rejects.toBeInstanceOf(ManifestError);
    }
  });
});

test("another version is refused before anything else is believed", async () => {
  const text = manifest("gate").replace('"version": 2', '"version": 3');
  await expect(readManifest(text, WHAT)).rejects.toThrow(
    'digits.ee/manifest.json: "version" is 3, this eetoolkit reads 2; update eetoolkit',
  );
});

test("a message is one line that nothing obeys", () => {
  expect(new ManifestError("a\n  \x1b[2Jb").message).toBe("a \\x1b[2Jb");
  expect(flat(" é \u202e\n\n")).toBe("é \\u202e");
});

test("an engine whose regular expressions know no classes of Unicode still shows no control characters", async () => {
  vi.resetModules();
  vi.stubGlobal("RegExp", () => {
    throw new SyntaxError("Invalid RegExp: Invalid escape");
  });
  try {
    const { printable } = await import("../src/printable.js");
    expect(printable("é \x1b[2J\u202e\n")).toBe("é \\x1b[2J\\u202e\\n");
    expect(printable("\u0378")).toBe("\u0378"); // unassigned: here it is not known
  } finally {
    vi.unstubAllGlobals();
  }
});

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { readTensors } from "../src/tensorfile.js";
import { CASES } from "./cases.js";

function fileOf(header: unknown, data: readonly number[] = []): Uint8Array {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  bytes.set(data, 8 + text.length);
  return bytes;
}
const U8 = { dtype: "U8", shape: [2], data_offsets: [0, 2] };

describe("a file of tensors", () => {
  test("is read whatever its header's length", () => {
    for (const pad of ["", " ", "  ", "   "]) {
      const header = `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"__metadata__":{"k":"v"}}${pad}`;
      const [tensors, metadata] = readTensors(fileOf(header, [0, 0, 128, 63]));
      expect(tensors.get("a")).toEqual({ dtype: "float32", shape: [1], data: Float32Array.of(1) });
      expect(metadata).toEqual(new Map([["k", "v"]]));
    }
  });

  test("holds every dtype", () => {
    const [tensors] = readTensors(readFileSync(join(CASES, "every_dtype", "tensors.safetensors")));
    expect(new Set([...tensors.values()].map(({ dtype }) => dtype)).size).toBe(12);
  });

  test("may hold a scalar and tensors without elements", () => {
    const empty = { dtype: "U8", shape: [0], data_offsets: [0, 0] }, scalar = { dtype: "U8", shape: [], data_offsets: [0, 1] };
    const [tensors] = readTensors(fileOf({ scalar, empty }, [3]));
    expect([...tensors.values()].map(({ data }) => [...data])).toEqual([[], [3]]);
  });

  test.each([
    ["too short", new Uint8Array(7), "7 bytes cannot hold a header of 0"],
    ["a header beyond its end", fileOf({}).fill(255, 0, 8), "10 bytes cannot hold a header of"],
    ["no JSON", fileOf("{"), "its header is damaged"],
    ["no object", fileOf("[]"), "its header is damaged"],
    ["not UTF-8", fileOf({}, []).fill(255, 8), "its header is damaged"],
    ["another dtype", fileOf({ a: { ...U8, dtype: "F8" } }, [0, 0]), "its header is damaged"],
    ["another key", fileOf({ a: { ...U8, b: 1 } }, [0, 0]), "its header is damaged"],
    ["a negative size", fileOf({ a: { ...U8, shape: [-2] } }, [0, 0]), "its header is damaged"],
    ["three offsets", fileOf({ a: { ...U8, data_offsets: [0, 2, 2] } }, [0, 0]), "its header is damaged"],
    ["a gap", fileOf({ a: { ...U8, data_offsets: [1, 3] } }, [0, 0, 0]), "'a' is not where its header says"],
    ["an overlap", fileOf({ a: U8, b: { ...U8, data_offsets: [1, 3] } }, [0, 0, 0]), "'b' is not where its header says"],
    ["another length", fileOf({ a: { ...U8, shape: [3] } }, [0, 0]), "'a' is not where its header says"],
    ["beyond the end", fileOf({ a: U8 }, [0]), "'a' is not where its header says"],
    ["bytes left", fileOf({ a: U8 }, [0, 0, 0]), "1 bytes at its end are no tensor's"],
    ["a boolean of 2", fileOf({ a: { ...U8, dtype: "BOOL" } }, [0, 2]), "'a' is BOOL and has other bytes than 0 and 1"],
    ["metadata that are numbers", fileOf({ __metadata__: { a: 1 } }), "its header is damaged: Expected `str`"],
  ])("that is damaged is refused: %s", (_what, bytes, text) => {
    expect(() => readTensors(bytes)).toThrow(text);
  });
});

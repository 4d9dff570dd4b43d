import { describe, expect, test } from "vitest";
import { InputError } from "../src/index.js";
import { prepare } from "../src/inputs.js";
import type { Plan, TensorSpec } from "../src/plan.js";
import { fromHalf, halfOf } from "../src/tensors.js";
import { ort } from "./cases.js";
import type { Inputs } from "../src/index.js";

function planOf(inputs: readonly TensorSpec[], more: Partial<Plan> = {}): Plan {
  const empty = new Map<string, never>();
  return { inputs, limits: empty, preprocess: empty, titles: empty, ...more } as Plan;
}
const given = (plan: Plan, inputs: unknown): unknown[] =>
  prepare(plan, ort, inputs as Inputs).map(({ type, dims, data }) => [type, dims, [...(data as Float32Array)]]);
const one = (dtype: TensorSpec["dtype"], shape: TensorSpec["shape"]): Plan => planOf([{ name: "x", dtype, shape }]);
const VECTOR = one("float32", ["batch", 3]);

describe("an input is taken", () => {
  test("as numbers, a typed array or a tensor, alone or by name", () => {
    const due = [["float32", [1, 3], [1, 2, 3]]];
    const tensor = new ort.Tensor("float32", [1, 2, 3], [1, 3]);
    for (const value of [[1, 2, 3], Float32Array.of(1, 2, 3), Float64Array.of(1, 2, 3), tensor]) {
      expect(given(VECTOR, value)).toEqual(due);
      expect(given(VECTOR, { x: value })).toEqual(due);
      expect(given(VECTOR, new Map([["x", value]]))).toEqual(due);
    }
  });

  test("from any part of a buffer, and copied", () => {
    const buffer = Float32Array.of(9, 1, 2, 3, 9), part = buffer.subarray(1, 4);
    const [tensor] = prepare(VECTOR, ort, part);
    const data = tensor?.data as Float32Array;
    expect([[...data], data.byteOffset, data.buffer.byteLength]).toEqual([[1, 2, 3], 0, 12]);
    part.fill(0);
    expect([...data]).toEqual([1, 2, 3]);
    const pooled = Buffer.from([1, 2, 3]);
    expect(given(one("uint8", [1, 3]), pooled)).toEqual([["uint8", [1, 3], [1, 2, 3]]]);
  });

  test("as integers of any width that fit, as bigints where they are of 64 bits", () => {
    const int64 = one("int64", [1, 2]);
    for (const value of [[1, -2], Int32Array.of(1, -2), BigInt64Array.of(1n, -2n)]) {
      expect(given(int64, value)).toEqual([["int64", [1, 2], [1n, -2n]]]);
    }
    expect(given(one("int8", [1, 1]), BigInt64Array.of(-128n))).toEqual([["int8", [1, 1], [-128]]]);
    expect(given(one("bool", [1, 2]), [1, 0])).toEqual([["bool", [1, 2], [1, 0]]]);
    expect(given(one("bool", [1, 2]), Uint8Array.of(1, 0))).toEqual([["bool", [1, 2], [1, 0]]]);
  });

  test("in half precision as bits or as numbers", () => {
    const half = one("float16", [1, 2]);
    for (const value of [Uint16Array.of(0x3c00, 0xc000), [1, -2], Float32Array.of(1, -2)]) {
      const [tensor] = prepare(half, ort, value);
      const { buffer, byteOffset } = tensor?.data as unknown as Uint16Array<ArrayBuffer>;
      expect([...new Uint16Array(buffer, byteOffset, 2)]).toEqual([0x3c00, 0xc000]);
    }
    expect(given(one("float32", [1, 1]), new ort.Tensor("float16", Uint16Array.of(0x3555), [1, 1]))).toEqual([
      ["float32", [1, 1], [0.333251953125]],
    ]);
  });

  test("with the one size that numbers leave open, the same in all inputs", () => {
    const spec = (name: string): TensorSpec => ({ name, dtype: "float32", shape: ["batch", "length"] });
    const plan = planOf([spec("a"), spec("b")], { limits: new Map([["length", { min: 2, max: 4 }]]) });
    expect(given(plan, { a: [1, 2], b: [3, 4] })).toEqual([["float32", [1, 2], [1, 2]], ["float32", [1, 2], [3, 4]]]);
    expect(() => given(plan, { a: [1, 2, 3, 4, 5], b: [1, 2, 3, 4, 5] })).toThrow(
      new InputError("input 'a': length is 5, expected 2 to 4: a: float32[batch, length]"),
    );
    const longer = { a: new ort.Tensor("float32", [1, 2], [1, 2]), b: new ort.Tensor("float32", [1, 2, 3], [1, 3]) };
    expect(() => given(plan, longer)).toThrow(
      new InputError("input 'b': got shape [1, 3], expected b: float32[batch, length] (length is 2 elsewhere)"),
    );
  });

  test("as pixels by the bundle's formula, where it has one", () => {
    const mean = [0.5, 0.25], std = [0.5, 2];
    const pixels = (layout: "NCHW" | "NHWC"): unknown => {
      const shape = layout === "NCHW" ? ["batch", 2, 1, 2] : ["batch", 1, 2, 2];
      const preprocess = new Map([["x", { layout, resize: [1, 2] as const, scale: 1 / 255, mean, std }]]);
      return given(planOf([{ name: "x", dtype: "float32", shape }], { preprocess }), Uint8ClampedArray.of(0, 255, 51, 102));
    };
    const f = Math.fround, at = (pixel: number, channel: number): number =>
      f(f(f(pixel * f(1 / 255)) - f(mean[channel] as number)) / f(std[channel] as number));
    expect(pixels("NCHW")).toEqual([["float32", [1, 2, 1, 2], [at(0, 0), at(255, 0), at(51, 1), at(102, 1)]]]);
    expect(pixels("NHWC")).toEqual([["float32", [1, 1, 2, 2], [at(0, 0), at(255, 1), at(51, 0), at(102, 1)]]]);
  });
});

const SPELT = "x: float32[batch, 3]";
test.each([
  ["of other sizes", VECTOR, [1, 2], `input 'x': got shape [2], expected ${SPELT}`],
  ["of several rows", VECTOR, new ort.Tensor("float32", [1, 2, 3, 4, 5, 6], [2, 3]), "got 2 rows, a run takes one; run them one by one"],
  ["of integers for floats", VECTOR, Int32Array.of(1, 2, 3), `input 'x': got dtype int32, expected ${SPELT}; convert it to float32`],
  ["of pixels without a formula", VECTOR, Uint8Array.of(1, 2, 3),
    `input 'x': got dtype uint8, expected ${SPELT}; scale it as in training, or give the bundle \`preprocess\` at export`],
  ["of no numbers", VECTOR, ["1", 2, 3], `input 'x': holds 1, which is no float32; expected ${SPELT}`],
  ["beyond its precision", VECTOR, [1e39, 0, 0],
    `input 'x': 1e+39 is beyond what float32 holds, 3.4e38; expected ${SPELT}; scale it as in training`],
  ["beyond its range", one("int8", [1, 1]), Int32Array.of(128), "input 'x': got dtype int32, expected x: int8[1, 1]; it holds 128"],
  ["with a fraction", one("int64", [1, 1]), [0.5], "input 'x': holds 0.5, which is no int64; expected x: int64[1, 1]"],
  ["of another name", VECTOR, { y: [1, 2, 3] }, "got inputs ['y'], expected ['x']"],
  ["of one name too many", VECTOR, { x: [1, 2, 3], y: [1] }, "got inputs ['x', 'y'], expected ['x']"],
  ["of no kind", VECTOR, { x: "text" }, "input 'x': got a string, expected a tensor, a typed array or numbers"],
  ["of nothing", VECTOR, null, "got inputs [], expected ['x']"],
  ["without elements", one("float32", ["batch", "n"]), new ort.Tensor("float32", [], [1, 0]),
    "input 'x': got the empty shape [1, 0], expected x: float32[batch, n]"],
  ["without a shape", one("float32", ["batch", "h", "w"]), [1],
    "input 'x': got numbers without a shape, expected a tensor of x: float32[batch, h, w]"],
  ["of other booleans", one("bool", [1, 1]), Uint8Array.of(2), "input 'x': got dtype uint8, expected x: bool[1, 1]; give 0 and 1"],
] as const)("an input %s is refused", (_what, plan, value, text) => {
  expect(() => given(plan, value)).toThrow(new InputError(text));
});

test("half precision is read and written as IEEE 754 says, all 65,536 of its numbers", () => {
  for (let bits = 0; bits < 1 << 16; bits++) {
    const value = fromHalf(bits);
    if (!Number.isNaN(value) && halfOf(value) !== bits) throw new Error(`${bits} is ${value}, and back ${halfOf(value)}`);
  }
  expect([fromHalf(0x3c01), fromHalf(0x7bff), fromHalf(1), fromHalf(0xfc00)]).toEqual([1 + 2 ** -10, 65504, 2 ** -24, -Infinity]);
  const rounded = [65519.99, 65520, 2 ** -25, 2 ** -25 * 1.0001, 1 + 2 ** -11, 1 + 3 * 2 ** -11, NaN].map(halfOf);
  expect(rounded).toEqual([0x7bff, 0x7c00, 0, 1, 0x3c00, 0x3c02, 0x7e00]);
});

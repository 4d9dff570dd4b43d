// What a plan's constants and preprocessing may hold.

import { ManifestError } from "./errors.js";
import type { Manifest } from "./manifest-types.js";
import type { DType, Preprocess, TensorSpec } from "./plan.js";
import { repr, reprFloat } from "./printable.js";

type Value = boolean | bigint | number | string;

const LARGEST: ReadonlyMap<DType, number> = new Map([["float16", 65504], ["float32", 3.4028234663852886e38]]); // IEEE
const MOST_EXACT = BigInt(Number.MAX_SAFE_INTEGER);

/** Throws a `ManifestError` where a constant has more or fewer values than its shape, or one that its dtype has not. */
export function checkConstants(plan: Manifest): void {
  for (const [name, { dtype, shape, data }] of plan.constants) {
    const needed = shape.reduce((product, dim) => product * BigInt(dim), 1n);
    if (needed !== BigInt(data.length)) {
      throw new ManifestError(
        `constant ${repr(name)}: shape ${repr(shape)} needs ${needed} values, got ${data.length}`,
      );
    }
    const wrong = data.find((value) => !holds(dtype, value));
    if (wrong !== undefined) {
      const spelled = typeof wrong === "number" ? reprFloat(wrong) : repr(wrong);
      throw new ManifestError(`constant ${repr(name)}: ${spelled} is not a finite ${dtype}`);
    }
  }
}

/** Whether a value is one of a dtype; integers beyond what JSON keeps, and they alone, are texts. */
function holds(dtype: DType, value: Value): boolean {
  if (dtype === "bool" || typeof value === "boolean") return dtype === "bool" && typeof value === "boolean";
  const floating = dtype.startsWith("float");
  if (typeof value === "string") {
    if (floating || !/^-?[1-9]\d{15,19}$/.test(value) || isExact(BigInt(value))) return false;
    value = BigInt(value);
  } else if (typeof value === "bigint" && !isExact(value)) {
    return false;
  }
  if (floating) return Math.abs(Number(value)) <= (LARGEST.get(dtype) ?? Infinity);
  if (typeof value === "number") return false;
  const bits = Number(dtype.replace(/\D+/, ""));
  return value === (dtype.startsWith("u") ? BigInt.asUintN(bits, value) : BigInt.asIntN(bits, value));
}

/** Whether every reader of JSON tells an integer from its neighbours. */
function isExact(value: bigint): boolean {
  return value <= MOST_EXACT && value >= -MOST_EXACT;
}

/** Returns why pixels cannot be prepared like this for an input; null where they can. */
export function preprocessProblem(asked: Preprocess, { dtype, shape }: TensorSpec): string | null {
  const { layout, resize, mean, std } = asked;
  if (!dtype.startsWith("float")) return `it is ${dtype}, expected floating-point numbers`;
  if (shape.length !== 4) return `its shape is ${repr(shape)}, expected four dimensions`;
  const [channels, height, width] = layout === "NCHW" ? shape.slice(1) : [shape[3], shape[1], shape[2]];
  for (const [key, values] of Object.entries({ mean, std })) {
    if (values.length !== 1 && values.length !== channels) {
      return `${key} has ${values.length} values, expected 1 or ${channels ?? "None"}`;
    }
  }
  if ([height, width].some((dim, place) => typeof dim === "number" && dim !== resize[place])) {
    return `resize is ${repr(resize)}, its shape is ${repr(shape)}`;
  }
  return std.includes(0) ? "std is 0" : null;
}

// What a caller hands over, checked, copied, and put into the network's order, dtypes and shapes.

import type { Inputs, Ort, Value } from "./api.js";
import { InputError } from "./errors.js";
import type { DType, Plan, Preprocess, TensorSpec } from "./plan.js";
import { repr } from "./printable.js";
import {
  DTYPE_OF, arrayFor, fromHalf, halfOf, isBig, isFloat, isNear, rangeOf, sizeOf, tensorOf, type AnyTensor, type Numbers,
} from "./tensors.js";

const BATCH = "batch";

/**
 * One row of inputs in the plan's order, each of its dtype and a shape that fits, in memory of its own. A tensor on a
 * GPU is taken as it is.
 */
export function prepare(plan: Plan, ort: Ort, inputs: Inputs): AnyTensor[] {
  const sizes = new Map<string, number>();
  const values = inOrder(plan, inputs);
  const tensors = plan.inputs.map((spec, index) => {
    const value = values[index] as Value;
    return fit(ort, spec, value, plan.preprocess.get(spec.name), sizes);
  });
  for (const [symbol, { min, max }] of plan.limits) {
    const size = sizes.get(symbol);
    if (symbol === BATCH || size === undefined || (min <= size && (max === null || size <= max))) continue;
    const spec = plan.inputs.find(({ shape }) => shape.includes(symbol)) as TensorSpec;
    const wanted = max === null ? `at least ${min}` : `${min} to ${max}`;
    throw new InputError(`input ${repr(spec.name)}: ${symbol} is ${size}, expected ${wanted}: ${spell(spec)}`);
  }
  const rows = sizes.get(BATCH) ?? 1;
  if (rows !== 1) throw new InputError(`got ${rows} rows, a run takes one; run them one by one`);
  return tensors;
}

const isTensor = (value: unknown): value is AnyTensor =>
  typeof value === "object" && value !== null && "dims" in value && "type" in value;
const isValue = (value: unknown): value is Value => Array.isArray(value) || ArrayBuffer.isView(value) || isTensor(value);

function inOrder({ inputs: specs, titles }: Plan, inputs: Inputs): Value[] {
  if (isValue(inputs)) {
    if (specs.length === 1) return [inputs];
    throw new InputError(`got 1 input, expected ${specs.length}: ${specs.map(spell).join(", ")}`);
  }
  const given = new Map<string, Value>(inputs instanceof Map ? inputs : Object.entries(inputs ?? {}));
  const known = specs.map(({ name }) => titles.get(name) ?? name);
  const values = specs.map(({ name }, index) => given.get(known[index] ?? name) ?? given.get(name));
  if (given.size === specs.length && values.every(isValue)) return values;
  const wrong = [...given].find(([, value]) => !isValue(value));
  if (wrong === undefined) throw new InputError(`got inputs ${repr([...given.keys()].sort())}, expected ${repr(known)}`);
  throw new InputError(`input ${repr(wrong[0])}: got a ${typeof wrong[1]}, expected a tensor, a typed array or numbers`);
}

function fit(
  ort: Ort, spec: TensorSpec, value: Value, preprocess: Preprocess | undefined, sizes: Map<string, number>,
): AnyTensor {
  const onGpu = isTensor(value) && !isNear(value);
  const data = isTensor(value) ? (onGpu ? [] : (value.data as Numbers)) : value;
  const length = onGpu ? sizeOf((value as AnyTensor).dims) : (data as ArrayLike<unknown>).length;
  const dtype = isTensor(value) ? value.type : dtypeOf(spec, value as ArrayBufferView | readonly number[]);
  const shape = isTensor(value) ? value.dims : shapeOf(spec, length, sizes);
  checkShape(spec, shape, sizes);
  if (onGpu) {
    if (dtype !== spec.dtype) throw refused(spec, dtype, "convert it on the GPU");
    return value as AnyTensor;
  }
  const numbers = data as Numbers | readonly number[];
  const fitted = dtype === "uint8" && spec.dtype !== "uint8" && preprocess !== undefined
    ? cast(spec, "float32", normalize(numbers as Uint8Array, preprocess, shape))
    : cast(spec, dtype, numbers);
  return tensorOf(ort, spec.dtype, fitted, shape);
}

/** The dtype of what is no tensor: plain numbers have none of their own, and bits and booleans are what is asked for. */
function dtypeOf(spec: TensorSpec, value: ArrayBufferView | readonly number[]): DType | "numbers" {
  if (Array.isArray(value)) return "numbers";
  const found = DTYPE_OF.get(Object.prototype.toString.call(value).slice(8, -1));
  if (found === undefined) throw new InputError(`input ${repr(spec.name)}: not an array; expected ${spell(spec)}`);
  const bits = { float16: "uint16", bool: "uint8" } as const;
  return spec.dtype in bits && bits[spec.dtype as "bool"] === found ? spec.dtype : found;
}

/** The shape that numbers without one have: the input's, where at most one of its sizes is not known. */
function shapeOf(spec: TensorSpec, length: number, sizes: ReadonlyMap<string, number>): number[] {
  const dims = spec.shape.map((dim) => (dim === BATCH ? 1 : typeof dim === "string" ? (sizes.get(dim) ?? null) : dim));
  const product = sizeOf(dims.map((dim) => dim ?? 1));
  const open = dims.filter((dim) => dim === null).length;
  if (open > 1) throw new InputError(`input ${repr(spec.name)}: got numbers without a shape, expected a tensor of ${spell(spec)}`);
  const rest = length / product;
  if (open === 0 ? rest === 1 : Number.isInteger(rest)) return dims.map((dim) => dim ?? rest);
  return [length];
}

function checkShape(spec: TensorSpec, shape: readonly number[], sizes: Map<string, number>): void {
  const wrong = (what: string, where = ""): InputError =>
    new InputError(`input ${repr(spec.name)}: got ${what} [${shape.join(", ")}], expected ${spell(spec)}${where}`);
  if (shape.length !== spec.shape.length) throw wrong("shape");
  for (let axis = 0; axis < shape.length; axis++) {
    const dim = spec.shape[axis] ?? null, size = shape[axis] ?? 0;
    const known = typeof dim === "string" ? (sizes.get(dim) ?? size) : (dim ?? size);
    if (typeof dim === "string") sizes.set(dim, known);
    if (size !== known) throw wrong("shape", typeof dim === "string" ? ` (${dim} is ${known} elsewhere)` : "");
  }
  if (shape.includes(0)) throw wrong("the empty shape");
}

/** Only what loses no meaning: floats to the network's floats, integers to its integers, where they fit; a copy. */
function cast(spec: TensorSpec, from: string, data: Numbers | readonly number[]): Numbers {
  const { dtype } = spec;
  if (from === dtype) {
    // Half precision may come as a Float16Array; onnxruntime takes the bits everywhere.
    if (dtype === "float16") return new Uint16Array((data as Numbers).buffer as ArrayBuffer, (data as Numbers).byteOffset, data.length).slice();
    if (dtype === "bool" && (data as Uint8Array).some((value) => value > 1)) throw refused(spec, "uint8", "give 0 and 1");
    return (data as Numbers).slice();
  }
  const values = data as ArrayLike<number | bigint>;
  const out = arrayFor(dtype, values.length) as unknown as (number | bigint)[];
  const plain = from === "numbers";
  if (isFloat(dtype) && (plain || isFloat(from))) {
    const half = from === "float16" && data instanceof Uint16Array;
    for (let index = 0; index < values.length; index++) {
      const value = half ? fromHalf(Number(values[index])) : (values[index] as number);
      if (typeof value !== "number") throw notNumber(spec, value);
      out[index] = dtype === "float16" ? halfOf(value) : value;
      const found = dtype === "float16" ? fromHalf(out[index] as number) : (out[index] as number);
      if (!Number.isFinite(found) && Number.isFinite(value)) throw beyond(spec, value);
    }
    return out as unknown as Numbers;
  }
  if (dtype === "bool" ? !plain : isFloat(dtype) || !(plain || /int/.test(from))) {
    const pixels = from === "uint8" && isFloat(dtype);
    const fix = pixels ? "scale it as in training, or give the bundle `preprocess` at export" : `convert it to ${dtype}`;
    throw refused(spec, from, fix);
  }
  const [least, largest] = dtype === "bool" ? [0n, 1n] : rangeOf(dtype);
  for (let index = 0; index < values.length; index++) {
    const value = dtype === "bool" ? Number(values[index]) : (values[index] as number | bigint);
    if (typeof value !== "bigint" && !Number.isInteger(value)) throw notNumber(spec, value);
    if (!(value >= least && value <= largest)) throw refused(spec, plain ? String(value) : from, `it holds ${value}`);
    out[index] = isBig(dtype) ? BigInt(value) : Number(value);
  }
  return out as unknown as Numbers;
}

function refused(spec: TensorSpec, dtype: string, fix: string): InputError {
  return new InputError(`input ${repr(spec.name)}: got dtype ${dtype}, expected ${spell(spec)}; ${fix}`);
}

function notNumber(spec: TensorSpec, value: unknown): InputError {
  return new InputError(`input ${repr(spec.name)}: holds ${String(value)}, which is no ${spec.dtype}; expected ${spell(spec)}`);
}

function beyond(spec: TensorSpec, value: number): InputError {
  const most = spec.dtype === "float16" ? "6.55e4" : "3.4e38";
  return new InputError(
    `input ${repr(spec.name)}: ${Number(value.toPrecision(6))} is beyond what ${spec.dtype} holds, ${most}; ` +
      `expected ${spell(spec)}; scale it as in training`,
  );
}

/** `(pixels * scale - mean) / std` per channel, each step in float32. */
function normalize(pixels: Uint8Array, preprocess: Preprocess, shape: readonly number[]): Float32Array {
  const { layout, scale, mean, std } = preprocess, f = Math.fround;
  const first = layout === "NCHW";
  const channels = shape[first ? 1 : 3] ?? 1, plane = first ? (shape[2] ?? 1) * (shape[3] ?? 1) : 1;
  const tables = Array.from({ length: channels }, (_, channel) =>
    Float32Array.from({ length: 256 }, (_each, pixel) =>
      f(f(f(pixel * f(scale)) - f(mean[channel] ?? mean[0] ?? 0)) / f(std[channel] ?? std[0] ?? 1)),
    ),
  );
  return Float32Array.from(pixels, (pixel, index) => tables[Math.floor(index / plane) % channels]?.[pixel] ?? NaN);
}

/** Name, dtype and shape for people. */
export function spell({ name, dtype, shape }: TensorSpec): string {
  return `${name}: ${dtype}[${shape.map((dim) => dim ?? "?").join(", ")}]`;
}

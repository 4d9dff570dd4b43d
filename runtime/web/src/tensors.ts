// Tensors' numbers: which typed array holds a dtype, half precision, and copies that share no memory.

import type { Tensor, TypedTensor } from "onnxruntime-common";
import type { Ort } from "./api.js";
import type { Constant, DType } from "./plan.js";

export type AnyTensor = TypedTensor<Tensor.Type>;
export type Numbers =
  | Float32Array | Float64Array | BigInt64Array | Int32Array | Int16Array | Int8Array
  | BigUint64Array | Uint32Array | Uint16Array | Uint8Array;

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array,
  int64: BigInt64Array, int32: Int32Array, int16: Int16Array, int8: Int8Array,
  uint64: BigUint64Array, uint32: Uint32Array, uint16: Uint16Array, uint8: Uint8Array, bool: Uint8Array,
} as const;

/** The dtype that a typed array's elements have, by its tag; half precision and booleans look like integers. */
export const DTYPE_OF: ReadonlyMap<string, DType> = new Map<string, DType>([
  ...Object.entries(ARRAYS).map(([dtype, { name }]) => [name, dtype as DType] as const),
  ["Uint16Array", "uint16"], ["Uint8Array", "uint8"], ["Uint8ClampedArray", "uint8"], ["Float16Array", "float16"],
]);

export const isFloat = (dtype: string): boolean => dtype.startsWith("float");
export const isBig = (dtype: string): boolean => dtype.endsWith("int64");
/** The least and the largest integer of an integer dtype. */
export function rangeOf(dtype: DType): readonly [least: bigint, largest: bigint] {
  const bits = BigInt(dtype.replace(/\D+/, ""));
  return dtype.startsWith("u") ? [0n, (1n << bits) - 1n] : [-(1n << (bits - 1n)), (1n << (bits - 1n)) - 1n];
}

/** How many elements a shape has. */
export const sizeOf = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);

/** A fresh typed array for `length` elements; of half precision their bits. */
export const arrayFor = (dtype: DType, length: number): Numbers => new ARRAYS[dtype](length);

/** A view of bytes, little-endian, as elements of a dtype; the bytes must begin at a multiple of an element's size. */
export function viewOf(dtype: DType, bytes: Uint8Array): Numbers {
  const kind = ARRAYS[dtype];
  return new kind(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength / kind.BYTES_PER_ELEMENT);
}

/** A tensor of the caller's onnxruntime over `data`, which it keeps; half precision is given by its bits. */
export function tensorOf(ort: Ort, dtype: DType, data: Numbers, shape: readonly number[]): AnyTensor {
  const Make = ort.Tensor as unknown as new (type: string, data: Numbers, dims: readonly number[]) => AnyTensor;
  return new Make(dtype, data, shape);
}

/** A constant of the plan as a tensor. */
export function constantOf(ort: Ort, { dtype, shape, data }: Constant): AnyTensor {
  const found = arrayFor(dtype, data.length) as unknown as (number | bigint)[];
  data.forEach((value, index) => {
    found[index] = isBig(dtype) ? BigInt(value) : dtype === "float16" ? halfOf(Number(value)) : Number(value);
  });
  return tensorOf(ort, dtype, found as unknown as Numbers, shape);
}

/** Whether a tensor's numbers can be read at once, on the CPU. */
export const isNear = ({ location }: AnyTensor): boolean => location === "cpu" || location === "cpu-pinned";

/** A copy on the CPU of a tensor that may lie on a GPU, shared with nobody. */
export async function copyOf(ort: Ort, tensor: AnyTensor): Promise<AnyTensor> {
  const data = (isNear(tensor) ? tensor.data.slice() : await tensor.getData()) as Numbers;
  return tensorOf(ort, tensor.type as DType, data, tensor.dims);
}

/** The elements of a tensor on the CPU as they compare: half precision as numbers, 64-bit integers as bigints. */
export function elementsOf({ type, data }: AnyTensor): ArrayLike<number | bigint> {
  const bits = data as unknown;
  return type === "float16" && bits instanceof Uint16Array ? Float32Array.from(bits, fromHalf) : (bits as Numbers);
}

/** The number that 16 bits of half precision stand for (IEEE 754 binary16). */
export function fromHalf(bits: number): number {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

/** The 16 bits of the number in half precision that is nearest, of two the even one. */
export function halfOf(value: number): number {
  if (Number.isNaN(value)) return 0x7e00;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0, size = Math.abs(value);
  if (size >= 65520) return sign | 0x7c00;
  let exponent = Math.max(-14, Math.floor(Math.log2(size)));
  if (2 ** exponent > size && exponent > -14) exponent -= 1; // log2 rounds
  const scaled = size * 2 ** (10 - exponent), whole = Math.floor(scaled), rest = scaled - whole;
  const fraction = whole + (rest > 0.5 || (rest === 0.5 && whole % 2) ? 1 : 0);
  return sign | (fraction < 1024 ? fraction : fraction + (exponent + 14) * 1024);
}

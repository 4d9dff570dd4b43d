// Files of named tensors in the safetensors format: a header in JSON, then raw little-endian bytes in C order.

import type { DType } from "./plan.js";
import { arrayFor, sizeOf, viewOf, type Numbers } from "./tensors.js";

export interface Stored {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Of half precision the bits. */
  readonly data: Numbers;
}

const DTYPES: ReadonlyMap<unknown, DType> = new Map([
  ["F64", "float64"], ["F32", "float32"], ["F16", "float16"], ["I64", "int64"], ["I32", "int32"], ["I16", "int16"],
  ["I8", "int8"], ["U64", "uint64"], ["U32", "uint32"], ["U16", "uint16"], ["U8", "uint8"], ["BOOL", "bool"],
] as const);

/** The tensors in the bytes of a file, and its metadata; throws an `Error` where it is damaged. */
export function readTensors(content: Uint8Array): [tensors: Map<string, Stored>, metadata: Map<string, string>] {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const length = content.length < 8 ? 0 : Number(view.getBigUint64(0, true));
  if (content.length < 8 || length > content.length - 8) {
    throw new Error(`${content.length} bytes cannot hold a header of ${length}`);
  }
  const data = content.subarray(8 + length);
  const { metadata, entries } = headerOf(content.subarray(8, 8 + length));
  const tensors = new Map<string, Stored>();
  let end = 0;
  for (const { name, dtype, shape, start, stop } of entries.sort((a, b) => a.start - b.start || a.stop - b.stop)) {
    const width = arrayFor(dtype, 0).BYTES_PER_ELEMENT;
    if (start !== end || stop - start !== sizeOf(shape) * width || stop > data.length) {
      throw new Error(`'${name}' is not where its header says`);
    }
    end = stop;
    const bytes = data.slice(start, stop); // aligned, and nobody else's
    if (dtype === "bool" && bytes.some((byte) => byte > 1)) {
      throw new Error(`'${name}' is BOOL and has other bytes than 0 and 1`);
    }
    tensors.set(name, { dtype, shape, data: viewOf(dtype, new Uint8Array(bytes)) });
  }
  if (end !== data.length) throw new Error(`${data.length - end} bytes at its end are no tensor's`);
  return [tensors, metadata];
}

interface Entry {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly start: number;
  readonly stop: number;
}

function headerOf(bytes: Uint8Array): { metadata: Map<string, string>; entries: Entry[] } {
  try {
    const found = new Map(Object.entries(objectOf(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)))));
    const texts = Object.entries(objectOf(found.get("__metadata__") ?? {}));
    found.delete("__metadata__");
    const metadata = new Map(texts.map(([name, text]) => {
      if (typeof text !== "string") throw new Error("its metadata are not all texts");
      return [name, text];
    }));
    return { metadata, entries: [...found].map(([name, entry]) => entryOf(name, objectOf(entry))) };
  } catch (error) {
    throw new Error(`its header is damaged: ${error instanceof Error ? error.message : ""}`, { cause: error });
  }
}

function entryOf(name: string, entry: Readonly<Record<string, unknown>>): Entry {
  const { dtype: spelled, shape, data_offsets: offsets, ...others } = entry;
  const dtype = DTYPES.get(spelled), [start, stop] = isSizes(offsets) ? offsets : [];
  const known = dtype !== undefined && isSizes(shape) && shape.length <= 32 && Object.keys(others).length === 0;
  if (!known || start === undefined || stop === undefined || (offsets as number[]).length !== 2) {
    throw new Error(`'${name}' is no tensor`);
  }
  return { name, dtype, shape, start, stop };
}

function objectOf(value: unknown): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new Error("an object is due");
}

const isSizes = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((size) => Number.isInteger(size) && size >= 0 && size < 2 ** 48);

// Files of named tensors in the safetensors format: a header in JSON, then raw little-endian bytes in C order.

import { array, decode, int, map, object, oneOf, str, tuple } from "./decode.js";
import { parse, type Json } from "./json.js";
import type { DType } from "./plan.js";
import { repr } from "./printable.js";
import { arrayFor, sizeOf, viewOf, type Numbers } from "./tensors.js";

export interface Stored {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Of half precision the bits. */
  readonly data: Numbers;
}

const METADATA = "__metadata__";
const KINDS = { F: "float", I: "int", U: "uint" } as const;
const SIZE = int(0, 2 ** 48 - 1);
const DTYPE = oneOf("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL");
const ENTRIES = map(object({ dtype: DTYPE, shape: array(SIZE), data_offsets: tuple(2, SIZE) }, {}));

/** The tensors in the bytes of a file, and its metadata; throws an `Error` where it is damaged. */
export function readTensors(
  content: Uint8Array,
): [tensors: Map<string, Stored>, metadata: ReadonlyMap<string, string>] {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const length = content.length < 8 ? 0 : Number(view.getBigUint64(0, true));
  if (content.length < 8 || length > content.length - 8) {
    throw new Error(`${content.length} bytes cannot hold a header of ${length}`);
  }
  const data = content.subarray(8 + length);
  const [entries, metadata] = headerOf(content.subarray(8, 8 + length));
  const tensors = new Map<string, Stored>();
  let end = 0;
  const byPlace = (a: Entry, b: Entry): number => a.start - b.start || a.stop - b.stop;
  for (const { name, dtype, shape, start, stop } of entries.sort(byPlace)) {
    const width = arrayFor(dtype, 0).BYTES_PER_ELEMENT;
    if (shape.length > 32 || start !== end || stop - start !== sizeOf(shape) * width || stop > data.length) {
      throw new Error(`${repr(name)} is not where its header says`);
    }
    end = stop;
    const bytes = new Uint8Array(data.subarray(start, stop)); // aligned, and nobody else's
    if (dtype === "bool" && bytes.some((byte) => byte > 1)) {
      throw new Error(`${repr(name)} is BOOL and has other bytes than 0 and 1`);
    }
    tensors.set(name, { dtype, shape, data: viewOf(dtype, bytes) });
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

function headerOf(bytes: Uint8Array): [Entry[], ReadonlyMap<string, string>] {
  try {
    const { root, encoding, twice } = parse(bytes);
    if (encoding ?? twice) throw new Error(encoding ?? twice ?? "");
    const header = new Map(decode(map<Json>({ object: (value) => value }), root));
    const metadata = decode(map(str), header.get(METADATA) ?? new Map<string, Json>());
    header.delete(METADATA);
    const entries = [...decode(ENTRIES, header)].map(([name, { dtype, shape, data_offsets: [start = 0, stop = 0] }]) => {
      const kind = KINDS[dtype[0] as keyof typeof KINDS];
      return { name, dtype: (dtype === "BOOL" ? "bool" : kind + dtype.slice(1)) as DType, shape, start, stop };
    });
    return [entries, metadata];
  } catch (error) {
    throw new Error(`its header is damaged: ${error instanceof Error ? error.message : ""}`, { cause: error });
  }
}

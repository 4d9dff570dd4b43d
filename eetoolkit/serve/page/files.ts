// A user's own inputs: arrays in .npy and .safetensors files.

import { readTensors } from "../../../runtime/web/src/tensorfile.js";
import { sizeOf, viewOf } from "../../../runtime/web/src/tensors.js";
import type { DType, Row, Tensor, TensorSpec } from "./protocol.js";

const MOST_ROWS = 64;
/** NumPy's names of little-endian dtypes. */
const NPY = new Map<string, DType>([
  ["<f4", "float32"], ["<f8", "float64"], ["<f2", "float16"],
  ["<i8", "int64"], ["<i4", "int32"], ["<i2", "int16"], ["|i1", "int8"],
  ["<u8", "uint64"], ["<u4", "uint32"], ["<u2", "uint16"], ["|u1", "uint8"], ["|b1", "bool"],
]);

/** The rows in a file, at most 64; throws an `Error` in one line where it holds none that fit. */
export function readRows(inputs: readonly TensorSpec[], name: string, bytes: Uint8Array): Row[] {
  try {
    const tensors = name.toLowerCase().endsWith(".npy") ? new Map([["", readNpy(bytes)]]) : readTensors(bytes)[0];
    const parts = inputs.map((spec) => {
      const only = inputs.length === 1 && tensors.size === 1 ? [...tensors.values()][0] : undefined;
      const found = tensors.get(spec.name) ?? only;
      if (found === undefined) throw new Error(`it has no tensor '${spec.name}'`);
      return rowsOf(spec, found);
    });
    const count = Math.min(MOST_ROWS, ...parts.map(({ length }) => length));
    if (count === 0) throw new Error("it has no rows");
    return Array.from({ length: count }, (_, index) =>
      new Map(inputs.map(({ name: input }, place) => [input, parts[place]?.[index] as Tensor])),
    );
  } catch (error) {
    throw new Error(`${name}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}

/** The rows of a tensor: along its `batch`, or one that may lack that dimension. */
function rowsOf({ shape: dims, name }: TensorSpec, { dtype, shape, data }: Tensor): Tensor[] {
  const axis = dims.indexOf("batch");
  if (axis === 0 && shape.length === dims.length) {
    const size = sizeOf(shape.slice(1));
    return Array.from({ length: Math.min(MOST_ROWS, shape[0] ?? 0) }, (_, row) => ({
      dtype, shape: [1, ...shape.slice(1)], data: data.slice(row * size, (row + 1) * size),
    }));
  }
  if (shape.length === dims.length) return [{ dtype, shape, data }];
  if (axis >= 0 && shape.length === dims.length - 1) {
    return [{ dtype, shape: [...shape.slice(0, axis), 1, ...shape.slice(axis)], data }];
  }
  throw new Error(`its shape is [${shape.join(", ")}], '${name}' takes [${dims.map((dim) => dim ?? "?").join(", ")}]`);
}

/** An array in NumPy's format, version 1 to 3. */
function readNpy(bytes: Uint8Array): Tensor {
  const magic = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
  if (bytes.length < 12 || magic.some((byte, index) => bytes[index] !== byte)) throw new Error("it is no .npy file");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const long = (bytes[6] ?? 1) > 1, start = long ? 12 : 10;
  const end = start + (long ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder().decode(bytes.subarray(start, end));
  const spelled = /'descr':\s*'([^']*)'/.exec(header)?.[1] ?? "?", dims = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1];
  const dtype = NPY.get(spelled);
  if (dtype === undefined || dims === undefined) {
    throw new Error(`its dtype ${spelled} is not read here`);
  }
  const shape = dims.split(",").map((each) => each.trim()).filter((each) => each !== "").map(Number);
  if (/'fortran_order':\s*True/.test(header) && shape.length > 1) {
    throw new Error("it is in Fortran order; save it in C order");
  }
  const content = bytes.slice(end);
  const size = sizeOf(shape), width = Number(spelled.slice(2));
  if (content.length !== size * width) {
    throw new Error(`it has ${content.length} bytes of numbers, expected ${size * width}`);
  }
  return { dtype, shape, data: viewOf(dtype, content) };
}

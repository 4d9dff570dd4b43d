// What the page and its worker say to each other.

import type { Plan, Profile, Progress } from "eetoolkit-runtime";

export type TensorSpec = Plan["inputs"][number];
export type DType = TensorSpec["dtype"];
export type Numbers =
  | Float32Array | Float64Array | BigInt64Array | Int32Array | Int16Array | Int8Array
  | BigUint64Array | Uint32Array | Uint16Array | Uint8Array;

/** A tensor as it crosses; half precision by its bits. */
export interface Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: Numbers;
}
/** One row of inputs, by name. */
export type Row = ReadonlyMap<string, Tensor>;

export interface Opened {
  /** Without its constants, which the page does not need. */
  readonly plan: Plan;
  readonly threads: number;
}

export interface Verified {
  readonly passed: boolean;
  readonly samples: number;
  readonly lines: readonly string[];
}

export interface Ran {
  readonly exit: string;
  readonly confidence: number;
  readonly prediction: number | null;
  readonly path: readonly string[];
  /** Of the whole call. */
  readonly ms: number;
}

/** A golden sample's inputs, and what the source network said at each exit that it meets. */
export interface Sample {
  readonly row: Row;
  readonly said: readonly { readonly exit: string; readonly prediction: number | null }[];
}

/** What may be asked for, and what is answered. */
export interface Calls {
  open: { ask: { readonly url: string; readonly threads: number }; answer: Opened };
  verify: { ask: object; answer: Verified };
  /** `rows` null: the golden samples' inputs. */
  profile: { ask: { readonly rows: readonly Row[] | null; readonly seconds: number }; answer: Profile };
  samples: { ask: object; answer: readonly Sample[] };
  run: { ask: { readonly row: Row }; answer: Ran };
  /** Rows in the bytes of an .npy or .safetensors file. */
  read: { ask: { readonly name: string; readonly bytes: Uint8Array }; answer: readonly Row[] };
}
export type Kind = keyof Calls;

type Asked = { [K in Kind]: { readonly kind: K; readonly id: number } & Calls[K]["ask"] }[Kind];
export type Request = Asked | { readonly kind: "abort"; readonly id: number };

export interface Fault {
  readonly name: string;
  readonly message: string;
}
export type Reply =
  | { readonly kind: "progress"; readonly id: number; readonly progress: Progress }
  | { readonly kind: "answer"; readonly id: number; readonly answer: Calls[Kind]["answer"] }
  | { readonly kind: "fault"; readonly id: number; readonly fault: Fault };
export type { Asked };

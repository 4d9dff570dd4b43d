// The plan: the types of `manifest.json`, with its keys. docs/bundle-format.md specifies each; `validate` proves what
// types cannot say. Names are keys of Maps: an object would put integer-like keys first and knows `__proto__`.

export const FORMAT = "eetoolkit-bundle";
export const VERSION = 2;
export const MANIFEST = "manifest.json";
export const MANIFEST_LIMIT_BYTES = 8 << 20;

/** A size; a symbol or an expression of symbols, fixed within a call; or null: it depends on the data. */
export type Dim = number | string | null;
export type DType =
  | "float32" | "float64" | "float16"
  | "int64" | "int32" | "int16" | "int8"
  | "uint64" | "uint32" | "uint16" | "uint8"
  | "bool";
export type Scale = "logits" | "log_probs" | "probs";
export type Fallback = "last" | "most_confident";
/** When an exit fires: where its confidence reaches a number (NaN never does); never; or always, at the plan's end. */
export type Threshold = number | "never" | "always";
export type CriterionKind =
  | "max_prob" | "entropy" | "margin"
  | "patience" | "vote" | "mean_ensemble" | "geometric_ensemble"
  | "learned" | "all_of" | "any_of" | "at_least" | "custom";

export interface TensorSpec {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly Dim[];
}

export interface Slot {
  readonly dtype: DType;
  readonly shape: readonly Dim[];
}

/** A tensor that lives in the manifest; `data` in row-major order, integers beyond 2^53 - 1 as strings of digits. */
export interface Constant {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: readonly (number | boolean | string)[];
}

export interface Limit {
  readonly min: number;
  readonly max: number | null;
}

/** Where a slot takes its tensor from. */
export type Source =
  | { readonly kind: "output"; readonly name: string }
  | { readonly kind: "slot"; readonly name: string }
  | { readonly kind: "constant"; readonly name: string };

/** What of a criterion is read here: its kind, by which `verify` judges, and the constants that it names. */
export interface Criterion {
  readonly kind: CriterionKind;
  readonly constants: readonly (readonly [what: string, name: string])[];
}

export interface ClassScores {
  readonly output: string;
  readonly scale: Scale;
  readonly axis: number;
}

export interface Exit {
  readonly name: string;
  readonly outputs: ReadonlyMap<string, string>;
  readonly scores: ClassScores | null;
  readonly criterion: Criterion;
  readonly confidence: string;
  readonly threshold: Threshold;
}

export type Next =
  | { readonly kind: "goto"; readonly segment: string }
  | { readonly kind: "gate"; readonly on: string; readonly then: string; readonly else: string }
  | { readonly kind: "switch"; readonly on: string; readonly cases: readonly string[] }
  | { readonly kind: "stop" };

export interface Work {
  readonly nodes: number;
  readonly parameters: number;
  readonly multiply_adds: number | null;
}

/** One ONNX graph, or only moves where `model` is null. */
export interface Segment {
  readonly model: string | null;
  readonly weights: readonly string[];
  readonly prepack: boolean;
  readonly reads: ReadonlyMap<string, string>;
  readonly writes: ReadonlyMap<string, Source>;
  readonly exit: Exit | null;
  readonly next: Next;
  readonly max_visits: number | null;
  readonly work: Work | null;
}

export interface BundleFile {
  readonly sha256: string;
  readonly size: number;
}

export interface Preprocess {
  readonly layout: "NCHW" | "NHWC";
  readonly resize: readonly [height: number, width: number];
  readonly scale: number;
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

/** A whole manifest, read and proved. What is for people alone (such as `tuning`) is checked and left out. */
export interface Plan {
  readonly name: string;
  /** The least onnxruntime that reads the graphs, such as "1.20"; null: any. */
  readonly onnxruntime: string | null;
  readonly inputs: readonly TensorSpec[];
  readonly limits: ReadonlyMap<string, Limit>;
  readonly preprocess: ReadonlyMap<string, Preprocess>;
  readonly labels: readonly string[] | null;
  readonly titles: ReadonlyMap<string, string>;
  readonly slots: ReadonlyMap<string, Slot>;
  readonly constants: ReadonlyMap<string, Constant>;
  readonly start: string;
  readonly fallback: Fallback;
  readonly segments: ReadonlyMap<string, Segment>;
  readonly files: ReadonlyMap<string, BundleFile>;
  readonly golden: { readonly file: string; readonly tolerance: number } | null;
  readonly notes: readonly string[];
  /** Milliseconds that a segment takes (p90) on the device for which the bundle was profiled. */
  readonly expected_ms: ReadonlyMap<string, number>;
  /** Whether thresholds are still those of before it was quantised, and by which onnxruntime; null: it was not. */
  readonly quantization: { readonly stale: boolean; readonly onnxruntime: string } | null;
}

/** The exits by name, in the order of their first segment; one name may stand in several segments. */
export function exitsOf({ segments }: Pick<Plan, "segments">): Map<string, Exit> {
  const exits = new Map<string, Exit>();
  for (const { exit } of segments.values()) {
    if (exit !== null && !exits.has(exit.name)) exits.set(exit.name, exit);
  }
  return exits;
}

/** Returns a map with the same keys, in order, and what is made of each value. */
export function mapValues<V, W>(values: ReadonlyMap<string, V>, make: (value: V) => W): Map<string, W> {
  return new Map(Array.from(values, ([name, value]) => [name, make(value)]));
}

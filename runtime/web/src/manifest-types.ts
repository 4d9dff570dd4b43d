// The types of everything in `manifest.json`, what is only for people included: a key that nobody knows is refused.

import {
  array, bool, byKind, fail, float, int, integer, later, made, map, matching, nullable, object, oneOf, str, tuple,
  where, type Of, type Type,
} from "./decode.js";
import type { Json } from "./json.js";
import type { Criterion, Next, Segment, Source } from "./plan.js";

const count = int(0, Number.MAX_SAFE_INTEGER);
const size = int(0, 2 ** 31 - 1);
const positive = int(1, 2 ** 31 - 1);
const over0 = where(float, (value) => value > 0, () => "Expected `float` > 0.0");
const share = where(
  where(float, (value) => value >= 0, () => "Expected `float` >= 0.0"), (value) => value <= 1,
  () => "Expected `float` <= 1.0",
);
const axis = int(-32, 31);
const dtype = oneOf(
  "float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
);
const scale = oneOf("logits", "log_probs", "probs");
const threshold: Type<number | "never" | "always"> = { ...float, ...oneOf("never", "always") };
const tools = map<number | string>({ ...count, ...str });
const strings = array(str);
const names = map(str);
const none = new Map<string, never>();

/** That, and null, which is the default. */
function optional<T>(type: Type<T>): readonly [Type<T | null>, null] {
  return [nullable(type), null];
}

function shapeOf<T>(dim: Type<T>): Type<readonly T[]> {
  return where(array(dim), (dims) => dims.length <= 32, () => "Expected `array` of length <= 32");
}
const shape = shapeOf<number | string | null>(nullable<number | string>({ ...size, ...str }));

const source = made(
  object({}, { output: optional(str), slot: optional(str), constant: optional(str) }),
  (found): Source => {
    const [first, second] = (["output", "slot", "constant"] as const).flatMap((kind) => {
      const name = found[kind];
      return name === null ? [] : [{ kind, name }];
    });
    if (!first || second) fail("a source names exactly one of `output`, `slot`, `constant`");
    return first;
  },
);

// A number of a criterion is the name of the constant that holds it; what else it is, is for people.
const number = optional<number | string>({ ...float, ...str });
const numbers = optional<readonly number[] | string>({ ...str, ...array(float) });
const criterion: Type<Criterion> = made(
  object(
    {
      kind: oneOf(
        "max_prob", "entropy", "margin", "patience", "vote", "mean_ensemble", "geometric_ensemble", "learned", "all_of",
        "any_of", "at_least", "custom",
      ),
    },
    {
      output: optional(str), scale: [scale, ""], axis: [axis, 0], quantile: optional(share), temperature: number,
      tau: number, weights: numbers, bias: numbers, invert: [bool, false], n: optional(positive),
      members: [array(later(() => criterion)), []], threshold: number, function: optional(str),
    },
  ),
  (found) => ({
    kind: found.kind,
    constants: (["temperature", "tau", "weights", "bias", "threshold"] as const)
      .flatMap((key) => (typeof found[key] === "string" ? [[key, found[key]] as const] : []))
      .concat(found.members.flatMap((member) => member.constants) as never),
  }),
);

const scores = optional(object({ output: str }, { scale: [scale, "logits"], axis: [axis, 1] }));
const exit = object({ name: str, outputs: names, criterion, confidence: str, threshold }, { scores });

const next = byKind(
  new Map<Json, Type<Next>>([
    ["goto", object({ kind: oneOf("goto"), segment: str }, {})],
    ["gate", object({ kind: oneOf("gate"), on: str, then: str, else: str }, {})],
    ["switch", object({ kind: oneOf("switch"), on: str, cases: strings }, {})],
    ["stop", object({ kind: oneOf("stop") }, {})],
  ]),
);

const segment = object(
  { next },
  {
    model: optional(str), weights: [strings, []], prepack: [bool, true], reads: [names, none],
    writes: [map(source), none], exit: optional(exit), max_visits: optional(int(1, 2 ** 20)),
    work: optional(object({ nodes: count, parameters: count }, { multiply_adds: optional(count) })),
  },
);

const guarantee = object(
  { method: str, loss: str, risk: float, rows: count, found: float, bound: float, passed: bool, assumptions: strings },
  { delta: optional(float) },
);

const tuning = object(
  {
    goal: str, metric: str, costs: str, seed: count, rows: map(count), thresholds: map(threshold),
    exits_before: map(threshold),
  },
  {
    figures: [map(tuple(3, float)), none], guarantee: optional(guarantee), constants_before: [map(array(float)), none],
  },
);

const split = object(
  {
    exit: str, local: str, answers: strings, sends: names, model: str, version: count,
    exits: array(
      object(
        { name: str },
        {
          outputs: [map(object({ dtype, shape }, {})), new Map()],
          scores, threshold: [threshold, "always"], path: optional(strings),
        },
      ),
    ),
    segments: count,
  },
  {},
);

const required = {
  format: str, version: integer, name: str, created_with: tools,
  inputs: array(object({ name: str, dtype, shape }, {})), outputs: array(object({ name: str, dtype, shape }, {})),
  slots: map(object({ dtype, shape }, {})), start: str, segments: map<Segment>(segment),
};
const optionals = {
  onnxruntime: optional(matching(/^[0-9]{1,4}[.][0-9]{1,4}$/)),
  limits: [map(object({}, { min: [size, 0], max: optional(positive) })), none],
  preprocess: [
    map(
      object(
        { layout: oneOf("NCHW", "NHWC"), resize: tuple(2, positive) as Type<readonly [number, number]> },
        { scale: [float, 1 / 255], mean: [array(float), [0]], std: [array(float), [1]] },
      ),
    ),
    none,
  ],
  labels: optional(strings),
  titles: [names, none],
  constants: [
    map(
      object(
        {
          dtype, shape: shapeOf(size),
          data: array<boolean | bigint | number | string>({ ...bool, ...integer, ...float, ...str }),
        },
        {},
      ),
    ),
    none,
  ],
  batch: optional(where(integer, (value) => value === 1n, (value) => `Invalid enum value ${value}`)),
  fallback: [oneOf("last", "most_confident"), "last"],
  files: [map(object({ sha256: matching(/^[0-9a-f]{64}$/), size: count }, {})), none],
  golden: optional(object({ file: str, tolerance: over0 }, {})),
  notes: [strings, []],
  profile: optional(object({ expected_ms: map(over0) }, { file: optional(str) })),
  tuning: optional(tuning),
  quantization: optional(
    object(
      { segments: map(oneOf("static", "dynamic", "blockwise", "float16")), rows: count, created_with: tools },
      { activations: optional(oneOf("uint8", "int8")), stale: [bool, false] },
    ),
  ),
  split: optional(split),
} as const;

/** A whole manifest. Integers in constants are still bigints, by which 1 differs from 1.0. */
export const manifest = object(required, optionals);
export const MANIFEST_KEYS: ReadonlySet<string> = new Set(Object.keys({ ...required, ...optionals }));
export type Manifest = Of<typeof manifest>;

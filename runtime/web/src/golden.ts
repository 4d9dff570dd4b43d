// Golden samples: what the source network gave for a few inputs, so that a device can check itself without it.

import type { GoldenSample, Ort } from "./api.js";
import { array, decode, map, object, str } from "./decode.js";
import { IntegrityError, firstLine } from "./errors.js";
import { parse } from "./json.js";
import { exitsOf, type Plan } from "./plan.js";
import { repr } from "./printable.js";
import { predicted } from "./scores.js";
import type { Sessions } from "./sessions.js";
import { tensorOf, type AnyTensor } from "./tensors.js";
import { readTensors, type Stored } from "./tensorfile.js";

const VISIT = object({ exit: str, outputs: map(str), confidence: str }, {});
const SAMPLES = array(object({ inputs: map(str), visits: array(VISIT) }, {}));

/** The bundle's golden samples; none where it has none. */
export async function readGolden(
  plan: Plan, ort: Ort, sessions: Sessions, signal?: AbortSignal,
): Promise<readonly GoldenSample[]> {
  if (plan.golden === null) return [];
  const { file } = plan.golden;
  const bytes = await sessions.file(file, undefined, signal);
  try {
    return samplesIn(bytes, plan, ort);
  } catch (error) {
    throw new IntegrityError(`${file}: not readable golden samples (${firstLine(error)}); export the bundle again`, {
      cause: error,
    });
  }
}

function samplesIn(bytes: Uint8Array, plan: Plan, ort: Ort): GoldenSample[] {
  const [left, metadata] = readTensors(bytes), exits = exitsOf(plan);
  const { root } = parse(new TextEncoder().encode(metadata.get("samples") ?? ""));
  const take = (name: string): Stored => {
    const found = left.get(name);
    if (found === undefined || !left.delete(name)) throw new Error(`there is no tensor ${repr(name)}, or it belongs to two`);
    return found;
  };
  const takeAll = (what: string, names: ReadonlyMap<string, string>, expected: readonly string[]): Map<string, AnyTensor> => {
    if (names.size !== expected.length || !expected.every((name) => names.has(name))) {
      throw new Error(`the ${what} are ${[...names.keys()].join(", ")}, expected ${expected.join(", ")}`);
    }
    return new Map([...names].map(([name, tensor]) => {
      const { dtype, data, shape } = take(tensor);
      return [name, tensorOf(ort, dtype, data, shape)];
    }));
  };
  const samples = decode(SAMPLES, root).map(({ inputs, visits }) => ({
    inputs: takeAll("inputs", inputs, plan.inputs.map(({ name }) => name)),
    visits: visits.map(({ exit, outputs: names, confidence: tensor }) => {
      const known = exits.get(exit);
      if (known === undefined) throw new Error(`it has no exit ${repr(exit)}`);
      const outputs = takeAll(`outputs of ${repr(exit)}`, names, [...known.outputs.keys()]);
      const { dtype, shape, data } = take(tensor);
      if (dtype !== "float32" || shape.join() !== "1") {
        throw new Error(`a confidence is ${dtype}[${shape.join(", ")}], expected float32[1]`);
      }
      return { exit, outputs, confidence: Number(data[0]), prediction: predicted(outputs, known.scores) };
    }),
  }));
  for (const name of left.keys()) throw new Error(`the tensor ${repr(name)} belongs to no sample`);
  return samples;
}

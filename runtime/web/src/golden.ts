// Golden samples: what the source network gave for a few inputs, so that a device can check itself without it.

import type { GoldenSample, Ort } from "./api.js";
import { IntegrityError, firstLine } from "./errors.js";
import { exitsOf, type Plan } from "./plan.js";
import { predicted } from "./scores.js";
import type { Sessions } from "./sessions.js";
import { tensorOf, type AnyTensor } from "./tensors.js";
import { readTensors, type Stored } from "./tensorfile.js";

export interface Visit {
  readonly exit: string;
  readonly outputs: ReadonlyMap<string, Stored>;
  readonly confidence: number;
}

/** One row of inputs by name, and what every exit on its way gives, none firing. */
export interface Sample {
  readonly inputs: ReadonlyMap<string, AnyTensor>;
  readonly visits: readonly Visit[];
}

/** The bundle's golden samples; none where it has none. */
export async function readGolden(plan: Plan, ort: Ort, sessions: Sessions, signal?: AbortSignal): Promise<Sample[]> {
  if (plan.golden === null) return [];
  const { file } = plan.golden;
  const bytes = await sessions.file(file, undefined, signal);
  try {
    const [tensors, metadata] = readTensors(bytes);
    const index: unknown = JSON.parse(metadata.get("samples") ?? "");
    const samples = arrayOf(index).map((names) => sampleOf(plan, ort, tensors, names));
    for (const name of tensors.keys()) throw new Error(`the tensor '${name}' belongs to no sample`);
    return samples;
  } catch (error) {
    throw new IntegrityError(`${file}: not readable golden samples (${firstLine(error)}); export the bundle again`, {
      cause: error,
    });
  }
}

/** The same, each output a tensor, with the class that it says. */
export async function goldenSamples(...given: Parameters<typeof readGolden>): Promise<GoldenSample[]> {
  const [plan, ort] = given, exits = exitsOf(plan);
  return (await readGolden(...given)).map(({ inputs, visits }) => ({
    inputs,
    visits: visits.map(({ exit, outputs: stored, confidence }) => {
      const tensors = [...stored].map(([name, { dtype, data, shape }]) => [name, tensorOf(ort, dtype, data, shape)] as const);
      const outputs = new Map(tensors);
      return { exit, outputs, confidence, prediction: predicted(outputs, exits.get(exit)?.scores ?? null) };
    }),
  }));
}

function sampleOf(plan: Plan, ort: Ort, left: Map<string, Stored>, names: unknown): Sample {
  const sample = objectOf(names, "inputs", "visits"), exits = exitsOf(plan);
  const given = taken(left, "inputs", sample.get("inputs"), plan.inputs.map(({ name }) => name));
  const visits = arrayOf(sample.get("visits")).map((each): Visit => {
    const visit = objectOf(each, "exit", "outputs", "confidence");
    const name = textOf(visit.get("exit")), exit = exits.get(name);
    if (exit === undefined) throw new Error(`it has no exit '${name}'`);
    const outputs = taken(left, `outputs of '${name}'`, visit.get("outputs"), [...exit.outputs.keys()]);
    const { dtype, shape, data } = take(left, textOf(visit.get("confidence")));
    if (dtype !== "float32" || shape.length !== 1 || shape[0] !== 1) {
      throw new Error(`a confidence is ${dtype}[${shape.join(", ")}], expected float32[1]`);
    }
    return { exit: name, outputs, confidence: Number(data[0]) };
  });
  const inputs = [...given].map(([name, { dtype, data, shape }]) => [name, tensorOf(ort, dtype, data, shape)] as const);
  return { inputs: new Map(inputs), visits };
}

function taken(left: Map<string, Stored>, what: string, found: unknown, expected: readonly string[]): Map<string, Stored> {
  const names = objectOf(found);
  if (names.size !== expected.length || !expected.every((name) => names.has(name))) {
    throw new Error(`the ${what} are ${[...names.keys()].join(", ")}, expected ${expected.join(", ")}`);
  }
  return new Map([...names].map(([name, tensor]) => [name, take(left, textOf(tensor))]));
}

function take(left: Map<string, Stored>, name: string): Stored {
  const found = left.get(name);
  if (found === undefined) throw new Error(`there is no tensor '${name}', or it belongs to two`);
  left.delete(name);
  return found;
}

/** An object's members; where keys are given, exactly these. */
function objectOf(value: unknown, ...keys: string[]): Map<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("an object is due");
  const found = new Map<string, unknown>(Object.entries(value));
  if (keys.length > 0 && (found.size !== keys.length || !keys.every((key) => found.has(key)))) {
    throw new Error(`got the keys ${[...found.keys()].join(", ")}, expected ${keys.join(", ")}`);
  }
  return found;
}

function arrayOf(value: unknown): unknown[] {
  if (!Array.isArray(value)) throw new Error("an array is due");
  return value;
}

function textOf(value: unknown): string {
  if (typeof value !== "string") throw new Error("a text is due");
  return value;
}

// What one run returns, and which exit gives it.

import type { Answer, Ort, RunOptions } from "./api.js";
import { InputError } from "./errors.js";
import { repr } from "./printable.js";
import type { Program } from "./program.js";
import { predicted } from "./scores.js";
import { copyOf, type AnyTensor } from "./tensors.js";
import type { Met } from "./walk.js";

/** When a row answers. */
export interface Decision {
  /** What each exit's confidence must reach, by the exit's number; NaN: it never fires. */
  readonly limits: readonly number[];
  /** Whether each exit may answer where none fired. */
  readonly standIns: readonly boolean[];
  /** The number of the exit that answers whatever the confidences; -1: confidences decide. */
  readonly at: number;
  readonly mostConfident: boolean;
}

/** The decision of a program's exits, with other thresholds in place of some; names may be titles. */
export function decide(program: Program, mostConfident: boolean, options: RunOptions = {}): Decision {
  const { exits, plan } = program;
  const numbers = new Map<string, number>();
  exits.forEach(({ name }, index) => numbers.set(name, index));
  exits.forEach(({ name }, index) => numbers.set(plan.titles.get(name) ?? name, index));
  const numberOf = (name: string): number => {
    const found = numbers.get(name);
    if (found !== undefined) return found;
    throw new InputError(`no exit ${repr(name)}; the exits are ${exits.map((exit) => exit.name).join(", ")}`);
  };
  const limits = exits.map(({ threshold }): number | "never" | "always" => threshold);
  const given = options.thresholds ?? {};
  for (const [name, value] of given instanceof Map ? given : Object.entries(given)) {
    const index = numberOf(name);
    if (exits[index]?.threshold === "always") {
      throw new InputError(`thresholds: ${repr(name)} ends the plan and accepts everything; it has no threshold`);
    }
    if (value !== "never" && (typeof value !== "number" || Number.isNaN(value))) {
      throw new InputError(`thresholds: ${repr(name)} is ${String(value)}, expected a number, or 'never'`);
    }
    limits[index] = value;
  }
  const at = options.exitAt === undefined ? -1 : numberOf(options.exitAt);
  return {
    limits: limits.map((limit) => (typeof limit === "number" && at < 0 ? limit : NaN)),
    standIns: limits.map((limit) => at >= 0 || limit !== "never"),
    at,
    mostConfident: mostConfident && at < 0,
  };
}

/** Whether an exit answers at once. */
export const fires = ({ limits, at }: Decision, { exit, confidence }: Met): boolean =>
  confidence >= (limits[exit.index] ?? NaN) || exit.index === at;

/** Orders confidences; NaN ranks lowest. */
const rank = (met: Met): number => (Number.isNaN(met.confidence) ? -Infinity : met.confidence);

/** Whether an exit may stand in for one that fired, and does so better than the best before it. */
export const better = (decision: Decision, met: Met, best: Met | null): boolean =>
  decision.standIns[met.exit.index] === true && (!decision.mostConfident || best === null || rank(met) >= rank(best));

/** The answer of an exit in a run of this path; `own` says which of its tensors are nobody else's. */
export async function answerOf(
  ort: Ort, models: number, met: Met, run: Pick<Answer, "path" | "gates" | "stoppedBy">,
  own: (tensor: AnyTensor) => boolean,
): Promise<Answer> {
  const { exit, confidence } = met, { path, gates, stoppedBy } = run;
  const outputs = new Map<string, AnyTensor>();
  for (let index = 0; index < exit.outputs.length; index++) {
    const tensor = met.tensors[index] as AnyTensor;
    const free = own(tensor) && met.tensors.indexOf(tensor) === index; // two outputs may be one slot's
    outputs.set(exit.outputs[index]?.name ?? "", free ? tensor : await copyOf(ort, tensor));
  }
  const { name, scores } = exit.exit;
  const prediction = predicted(outputs, scores);
  return { exit: name, outputs, confidence, path, segments: models, gates, stoppedBy, prediction };
}

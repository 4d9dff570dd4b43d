// Whether a bundle gives here what the source network gave (docs/bundle-format.md, "The check").

import type { Answer, ExitCheck, GoldenSample, Progress, VerifyReport } from "./api.js";
import { difference, type Compared } from "./differences.js";
import { InputError } from "./errors.js";
import { readGolden } from "./golden.js";
import type { DType, Exit } from "./plan.js";
import { printable, repr } from "./printable.js";
import { check } from "./queue.js";
import { run, runAllExits, type State } from "./runner.js";
import { arrayFor, elementsOf, halfOf, isFloat, sizeOf, tensorOf, type AnyTensor } from "./tensors.js";

const SHOWN = 5;
const NOISY_RUNS = 8;
const ROUNDING = 0.1; // of the tolerance: what other orders of summation change a value by
/** Confidences that are counts or shares, the same on every machine: at their thresholds there is no rounding. */
const COUNTED = new Set(["patience", "vote", "all_of", "any_of", "at_least"]);

/** Checks every file's hash, then each golden sample through all exits and as a user would run it. */
export async function verify(
  state: State, { progress, signal }: { progress?: (progress: Progress) => void; signal?: AbortSignal } = {},
): Promise<VerifyReport> {
  const { plan, exits } = state.program, { ort } = state.options;
  for (const [index, { segment }] of state.program.steps.entries()) {
    if (segment.model !== null) await state.sessions.open(index, progress, signal);
  }
  const samples = await readGolden(plan, ort, state.sessions, signal);
  if (plan.golden === null || samples.length === 0) throw new InputError("verify: the bundle has no golden samples");
  const { tolerance } = plan.golden;
  const named = new Map(exits.map((exit) => [exit.name, exit]));
  let checks = new Map<string, ExitCheck>();
  const failures: string[] = [];
  for (const { name: exit } of exits) {
    checks.set(exit, { exit, samples: 0, outputDifference: 0, confidenceDifference: 0, ties: 0 });
  }
  const last = { ...state.own, mostConfident: false }; // whatever the runner's own fallback is
  for (const [number, sample] of samples.entries()) {
    progress?.({ what: "verify", name: `sample ${number}`, done: number, total: samples.length });
    check(signal);
    const met = await runAllExits(state, sample.inputs);
    const answer = await run(state, sample.inputs, {}, last);
    const found = new Map(checks);
    const wrong = compare(found, named, `sample ${number}`, sample, met, answer, tolerance);
    if (wrong.length > 0 && (await hangsByRounding(state, sample, met, ROUNDING * tolerance))) {
      count(checks, met.at(-1)?.exit ?? "", { ties: 1 });
    } else {
      checks = found;
      failures.push(...wrong);
    }
  }
  progress?.({ what: "verify", name: "", done: samples.length, total: samples.length });
  const { onnxruntime } = plan.quantization ?? {};
  const from = onnxruntime && `golden samples of the quantised segments, made by onnxruntime ${onnxruntime}`;
  return reportOf(tolerance, samples.length, [...checks.values()], failures, from ?? null);
}

function reportOf(
  tolerance: number, samples: number, exits: ExitCheck[], failures: string[], comparedWith: string | null,
): VerifyReport {
  const passed = failures.length === 0;
  return {
    tolerance, samples, exits, failures, comparedWith, passed,
    toString() {
      const lines = exits.map((each) =>
        `${each.exit}: ${each.samples} ${each.samples === 1 ? "sample" : "samples"}, outputs differ by at most ` +
        `${spell(each.outputDifference, 1)}, confidence by ${spell(each.confidenceDifference, 1)}` +
        (each.ties > 0 ? `, ${each.ties} ties` : ""),
      );
      const more = failures.length > SHOWN ? [`... and ${failures.length - SHOWN} more`] : [];
      const verdict = passed ? "passed" : `FAILED (${failures.length})`;
      const end = `verify ${verdict}, tolerance ${spell(tolerance, 0)}`;
      const from = comparedWith === null ? [] : [`compared with ${comparedWith}`];
      return [...lines, ...from, ...failures.slice(0, SHOWN), ...more, end].map(printable).join("\n");
    },
  };
}

/** A number as Python spells it with `e`: two digits of the exponent at least. */
const spell = (value: number, digits: number): string =>
  value === Infinity ? "inf" : value.toExponential(digits).replace(/([+-])(\d)$/, "$10$2");

function count(checks: Map<string, ExitCheck>, exit: string, more: Partial<ExitCheck>): void {
  const old = checks.get(exit);
  if (old === undefined) return;
  checks.set(exit, {
    exit,
    samples: old.samples + (more.samples ?? 0),
    outputDifference: Math.max(old.outputDifference, more.outputDifference ?? 0),
    confidenceDifference: Math.max(old.confidenceDifference, more.confidenceDifference ?? 0),
    ties: old.ties + (more.ties ?? 0),
  });
}

/** Counts one sample, and says what is wrong with it. */
function compare(
  checks: Map<string, ExitCheck>, exits: ReadonlyMap<string, Exit>, what: string, { visits }: GoldenSample,
  met: readonly Answer[], answer: Answer, tolerance: number,
): string[] {
  const list = (all: readonly { exit: string }[]): string => repr(all.map(({ exit }) => exit));
  if (list(met) !== list(visits)) return [`${what}: met the exits ${list(met)}, expected ${list(visits)}`];
  const wrong: string[] = [];
  for (const [index, { exit, outputs, confidence }] of visits.entries()) {
    const found = met[index] as Answer;
    const both = (tensor: AnyTensor): Compared => ({ shape: tensor.dims, data: elementsOf(tensor) });
    const one = (value: number): Compared => ({ shape: [1], data: [value] });
    const offs = [...outputs].map(([name, wanted]) =>
      difference(both(found.outputs.get(name) as AnyTensor), both(wanted)),
    );
    const outputDifference = Math.max(...offs);
    const confidenceDifference = difference(one(found.confidence), one(confidence));
    count(checks, exit, { samples: 1, outputDifference, confidenceDifference });
    for (const [kind, off] of [["outputs", outputDifference], ["confidence", confidenceDifference]] as const) {
      if (off <= tolerance) continue;
      wrong.push(`${what}: ${exit}: ${kind} off by ${spell(off, 1)}, more than ${spell(tolerance, 0)}`);
    }
  }
  const allowed = mayAnswer(visits, exits, tolerance);
  if (!allowed.includes(answer.exit)) wrong.push(`${what}: ${answer.exit} answered, expected ${allowed[0]}`);
  else if (new Set(allowed).size > 1) count(checks, answer.exit, { ties: 1 });
  return wrong;
}

/** The exits that may answer: the first that fires, and those passed or met by a rounding only. */
function mayAnswer(visits: GoldenSample["visits"], exits: ReadonlyMap<string, Exit>, tolerance: number): string[] {
  const allowed: string[] = [];
  for (const { exit, confidence } of visits) {
    const { threshold, criterion } = exits.get(exit) as Exit;
    if (threshold === "always") return [...allowed, exit];
    const counted = COUNTED.has(criterion.kind), slack = counted ? 0 : tolerance;
    if (threshold === "never" || !(confidence >= threshold - slack)) continue;
    allowed.push(exit);
    if (counted || confidence > threshold + slack) break;
  }
  return allowed;
}

/** Whether noise of the size of a rounding, put on the inputs, sends a gate another way: then both ways are right. */
async function hangsByRounding(
  state: State, { inputs }: GoldenSample, met: readonly Answer[], noise: number,
): Promise<boolean> {
  const ways = (answers: readonly Answer[]): string => JSON.stringify(answers.map(({ gates }) => gates));
  if (met.every(({ gates }) => gates.length === 0)) return false;
  for (let tries = 0; tries < NOISY_RUNS; tries++) {
    const noisy = new Map([...inputs].map(([name, tensor]) => [name, withNoise(state, tensor, noise)] as const));
    if (ways(await runAllExits(state, noisy)) !== ways(met)) return true;
  }
  return false;
}

function withNoise({ options: { ort } }: State, tensor: AnyTensor, noise: number): AnyTensor {
  if (!isFloat(tensor.type)) return tensor;
  const dtype = tensor.type as DType, found = arrayFor(dtype, sizeOf(tensor.dims));
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  const values = Array.from(elementsOf(tensor), (value) => Number(value) * (1 + noise * normal()));
  values.forEach((value, index) => (found[index] = dtype === "float16" ? halfOf(value) : value));
  return tensorOf(ort, dtype, found, tensor.dims);
}

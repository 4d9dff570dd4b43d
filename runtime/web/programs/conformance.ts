// Answers the cases of a folder, `runtime/conformance/cases` or one like it, as tests/case_runner.py does in Python.

import { difference } from "../src/differences.js";
import { exitsOf, load, type Answer, type LoadOptions, type Ort } from "../src/index.js";
import { MANIFEST, type Threshold } from "../src/plan.js";
import { elementsOf, tensorOf, type AnyTensor } from "../src/tensors.js";
import { readTensors, type Stored } from "../src/tensorfile.js";

/** A confidence this near its threshold may be on either side of it on another processor. */
const TIE = 1e-4;

/** Reads a file by its path in the folder of cases. */
export type Read = (path: string) => Promise<Uint8Array>;

/** What a case found: rows run, ties, golden samples verified, the largest difference of an output, what was wrong. */
export interface Found {
  runs: number;
  ties: number;
  samples: number;
  difference: number;
  failures: string[];
}

interface Said {
  readonly exit: string;
  readonly path: readonly string[];
  readonly gates: readonly (readonly [string, number])[];
  readonly stopped_by: string;
  readonly prediction: number | null;
  readonly outputs: Readonly<Record<string, string>>;
  readonly confidence: string;
}

interface Run {
  readonly inputs: Readonly<Record<string, string>>;
  readonly thresholds: Readonly<Record<string, number | "never">>;
  readonly exit_at: string | null;
  readonly answer?: Said;
  readonly visits?: readonly Said[];
  readonly error?: string;
}

interface Case {
  readonly tolerance: number;
  readonly runs: readonly Run[];
}

type Tensors = ReadonlyMap<string, Stored>;

/**
 * Runs all cases of these names, with these options of sessions; `progress` is told of each. `bundleAt` says where a
 * bundle is that is not to be loaded from its files' bytes.
 */
export async function answerCases(
  read: Read,
  names: readonly string[],
  ort: Ort,
  progress: (name: string, found: Found) => void = () => undefined,
  session: NonNullable<LoadOptions["session"]> = {},
  bundleAt?: (path: string) => readonly [source: string, options: Partial<LoadOptions>],
): Promise<Record<string, Found>> {
  const found: Record<string, Found> = {};
  for (const name of names) {
    found[name] = await answerCase((path) => read(`${name}/${path}`), { ort, session }, bundleAt?.(`${name}/bundle`));
    progress(name, found[name]);
  }
  return found;
}

async function answerCase(
  read: Read, options: LoadOptions, at?: readonly [source: string, options: Partial<LoadOptions>],
): Promise<Found> {
  const found: Found = { runs: 0, ties: 0, samples: 0, difference: 0, failures: [] };
  try {
    const { runs, tolerance } = JSON.parse(new TextDecoder().decode(await read("case.json"))) as Case;
    const [tensors] = readTensors(await read("tensors.safetensors"));
    const manifest = await read(`bundle/${MANIFEST}`);
    const names = Object.keys((JSON.parse(new TextDecoder().decode(manifest)) as { files?: object }).files ?? {});
    const files = new Map([[MANIFEST, manifest]]);
    for (const name of names) files.set(name, await read(`bundle/${name}`));
    const runner = await load(at?.[0] ?? files, { ...options, ...at?.[1] });
    try {
      for (const [number, run] of runs.entries()) {
        found.runs += 1;
        const limits = new Map([...exitsOf(runner.plan)].map(([name, { threshold }]) => [name, threshold] as const));
        for (const [name, limit] of Object.entries(run.thresholds)) limits.set(name, limit);
        const wrong = await answerRun(runner, options.ort, run, { tensors, tolerance, limits, found });
        if (wrong !== null) found.failures.push(`run ${number}: ${wrong}`);
      }
      if (runner.plan.golden !== null) {
        const report = await runner.verify();
        found.samples = report.samples;
        found.failures.push(...report.failures);
      }
    } finally {
      await runner.close();
    }
  } catch (error) {
    found.failures.push(String(error));
  }
  return found;
}

interface Known {
  readonly tensors: Tensors;
  readonly tolerance: number;
  readonly limits: ReadonlyMap<string, Threshold>;
  readonly found: Found;
}

type Ran = Awaited<ReturnType<typeof load>>;

async function answerRun(runner: Ran, ort: Ort, run: Run, known: Known): Promise<string | null> {
  const { tensors, found } = known;
  const inputs = new Map(Object.entries(run.inputs).map(([name, tensor]) => {
    const { dtype, data, shape } = stored(tensors, tensor);
    return [name, tensorOf(ort, dtype, data, shape)] as const;
  }));
  let answer: Answer, met: Answer[];
  try {
    answer = await runner.run(inputs, { thresholds: run.thresholds, ...(run.exit_at !== null && { exitAt: run.exit_at }) });
    met = await runner.runAllExits(inputs);
  } catch (error) {
    const said = error instanceof Error ? error.message : String(error);
    return said === run.error ? null : `${said}, expected ${run.error ?? "an answer"}`;
  }
  const { visits = [], answer: wanted } = run;
  if (wanted === undefined) return `${answer.exit} answered, expected ${run.error ?? "an answer"}`;
  if (met.length !== visits.length) return `met ${met.length} exits, expected ${visits.length}`;
  for (const [index, each] of met.entries()) {
    const expected = visits[index] as Said, text = unlike(each, expected, known);
    if (text !== null) return `${expected.exit}: ${text}`;
    for (const [, said, due] of pairs(each, expected, tensors)) {
      found.difference = Math.max(found.difference, difference(said, due));
    }
  }
  const text = unlike(answer, wanted, known);
  if (text === null) return null;
  if (!tied(visits, known).some((visit) => unlike(answer, visit, known) === null)) return `answer: ${text}`;
  found.ties += 1;
  return null;
}

/** The exits that may answer too where roundings decide: next to a threshold, or behind such an exit. */
function tied(visits: readonly Said[], { tensors, limits }: Known): Said[] {
  const others: Said[] = [];
  let some = false;
  for (const visit of visits) {
    const confidence = Number(stored(tensors, visit.confidence).data[0]), limit = limits.get(visit.exit);
    const near = typeof limit === "number" && Math.abs(confidence - limit) <= TIE;
    const fires = typeof limit === "number" && confidence >= limit;
    if (near || (some && (fires || visit === visits.at(-1)))) others.push(visit);
    some ||= near;
    if (fires && !near) break;
  }
  return others;
}

/** How an answer differs from what a case says; null where it does not. */
function unlike(answer: Answer, expected: Said, { tensors, tolerance }: Known): string | null {
  const said = {
    exit: answer.exit, path: answer.path, gates: answer.gates, stopped_by: answer.stoppedBy, prediction: answer.prediction,
  };
  for (const [key, value] of Object.entries(said)) {
    const [found, due] = [value, expected[key as keyof typeof said]].map((each) => JSON.stringify(each));
    if (found !== due) return `${key} is ${found}, expected ${due}`;
  }
  const names = Object.keys(expected.outputs);
  if (names.length !== answer.outputs.size || !names.every((name) => answer.outputs.has(name))) {
    return `outputs ${[...answer.outputs.keys()].join(", ")}`;
  }
  for (const [name, found, due] of pairs(answer, expected, tensors)) {
    const shapes = [found, due].map((each) => `${each.dtype}[${each.shape.join(", ")}]`);
    if (shapes[0] !== shapes[1]) return `${name} is ${shapes[0]}, expected ${shapes[1]}`;
    for (const [index, value] of Array.from(found.data as ArrayLike<unknown>, Number).entries()) {
      const wanted = Number((due.data as ArrayLike<number>)[index]);
      if (!(Object.is(value, wanted) || value === wanted || Math.abs(value - wanted) <= tolerance)) {
        return `${name} is ${value} at ${index}, expected ${wanted}`;
      }
    }
  }
  return null;
}

interface Compared {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: ArrayLike<number | bigint>;
}

function pairs(answer: Answer, expected: Said, tensors: Tensors): [string, Compared, Compared][] {
  const found: [string, Compared, Compared][] = [...answer.outputs].map(([name, tensor]) => [
    name,
    { dtype: tensor.type, shape: tensor.dims, data: elementsOf(tensor) },
    comparable(stored(tensors, expected.outputs[name] ?? "")),
  ]);
  const confidence = { dtype: "float32", shape: [1], data: Float32Array.of(answer.confidence) };
  return [...found, ["confidence", confidence, comparable(stored(tensors, expected.confidence))]];
}

function comparable({ dtype, shape, data }: Stored): Compared {
  return { dtype, shape, data: elementsOf({ type: dtype, data } as AnyTensor) };
}

function stored(tensors: Tensors, name: string): Stored {
  const found = tensors.get(name);
  if (found === undefined) throw new Error(`the case has no tensor '${name}'`);
  return found;
}

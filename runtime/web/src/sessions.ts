// The sessions of a bundle, each opened when it is first asked for, from the very bytes that were found to be its own.

import type { InferenceSession } from "onnxruntime-common";
import type { LoadOptions, Progress } from "./api.js";
import { paceOf, type Pace } from "./deadline.js";
import { BundleError, EEToolkitError, IntegrityError, RunError, firstLine } from "./errors.js";
import type { Plan } from "./plan.js";
import { repr } from "./printable.js";
import type { Program } from "./program.js";
import { alone, check, shared, type SharedWork } from "./queue.js";
import { readChecked, type Folder } from "./source.js";

export interface Opened {
  readonly graph: InferenceSession;
  /** The outputs to ask for; null: all that the graph has. */
  readonly fetches: readonly string[] | null;
}

type Told = (progress: Progress) => void;

export interface Sessions {
  /** By the step's index, once it is open. */
  readonly opened: readonly (Opened | undefined)[];
  readonly paces: readonly Pace[];
  /** Opens a step's segment; those who ask at one time share the work. */
  open(index: number, told?: Told, signal?: AbortSignal): Promise<Opened>;
  /** A file of the bundle, checked. */
  file(name: string, told?: Told, signal?: AbortSignal): Promise<Uint8Array>;
  /** Releases them all, for good. */
  close(): Promise<void>;
}

export const CLOSED = "this runner is closed; make a new one";

/** Refuses an onnxruntime that is older than the bundle needs. */
export function checkVersion({ onnxruntime }: Plan, { env }: LoadOptions["ort"], place: string): void {
  const installed = env.versions.common;
  const [major = 0, minor = 0] = (onnxruntime ?? "0").split(".").map(Number);
  const [ours = 0, second = 0] = installed.split(".").map(Number);
  if (ours > major || (ours === major && second >= minor)) return;
  throw new BundleError(
    `${place} needs onnxruntime ${onnxruntime} or newer, ${installed} is installed: update its npm package`,
  );
}

/** The sessions of a program whose files lie in `folder`. */
export function sessionsOf(program: Program, folder: Folder, options: LoadOptions): Sessions {
  const { ort } = options, { plan, steps } = program;
  const opened: (Opened | undefined)[] = steps.map(() => undefined);
  const paces = steps.map(({ name }) => paceOf(plan.expected_ms.get(name)));
  const fetching: SharedWork<string, Uint8Array> = new Map();
  const opening: SharedWork<number, Opened> = new Map();
  let closed = false;

  const tell: Told = (progress) => options.progress?.(progress);

  function file(name: string, told: Told = tell, signal?: AbortSignal): Promise<Uint8Array> {
    const entry = plan.files.get(name);
    if (entry === undefined) throw new IntegrityError(`${name} is not among the bundle's files`);
    const read = (done: number): void => told({ what: "fetch", name, done, total: entry.size });
    return shared(fetching, name, (stop) => readChecked(folder, name, entry, read, stop), signal);
  }

  async function create(index: number, told: Told, signal: AbortSignal): Promise<Opened> {
    const { segment, fetches, name } = steps[index] as (typeof steps)[number];
    const what = `segment ${repr(name)}`, model = segment.model as string;
    const { pathOf } = folder;
    let bytes: Uint8Array | undefined;
    const externalData: { path: string; data: Uint8Array }[] = [];
    try {
      bytes = await file(model, told, signal);
      if (pathOf === undefined) {
        for (const path of segment.weights) externalData.push({ path, data: await file(path, told, signal) });
      }
    } catch (error) {
      if (!(error instanceof EEToolkitError)) throw error;
      throw new IntegrityError(`${what}: ${error.message}`, { cause: error });
    }
    const given: InferenceSession.SessionOptions = {
      logSeverityLevel: 4, // errors are thrown
      ...options.session,
      freeDimensionOverrides: { ...options.session?.freeDimensionOverrides, batch: 1 },
      ...(externalData.length > 0 && { externalData }),
    };
    const graph = await alone(async () => {
      check(signal);
      try {
        const { InferenceSession } = ort;
        return await (pathOf === undefined
          ? InferenceSession.create(bytes, given)
          : InferenceSession.create(pathOf(model), given));
      } catch (error) {
        const version = ort.env.versions.common, said = firstLine(error);
        throw new IntegrityError(`${what}: onnxruntime ${version} cannot load ${folder.nameOf(model)}: ${said}`, {
          cause: error,
        });
      }
    });
    try {
      if (closed) throw new RunError(CLOSED);
      checkNames(what, "inputs", graph.inputNames, [...segment.reads.keys()], true);
      checkNames(what, "outputs", graph.outputNames, fetches, false);
      const passed = fetches.find((output) => segment.reads.has(output));
      if (passed !== undefined) {
        throw new IntegrityError(`${what}: the output ${repr(passed)} of its graph is an input; write it as a move`);
      }
    } catch (error) {
      await alone(() => graph.release());
      throw error;
    }
    const other = opened[index]; // of those who asked again, after all who asked for this one had left
    if (other !== undefined) {
      await alone(() => graph.release());
      return other;
    }
    told({ what: "open", name, done: 1, total: 1 });
    return (opened[index] = { graph, fetches: graph.outputNames.length === fetches.length ? null : fetches });
  }

  return {
    opened,
    paces,
    file,
    async open(index, told = tell, signal) {
      if (closed) throw new RunError(CLOSED);
      return opened[index] ?? shared(opening, index, (stop) => create(index, told, stop), signal);
    },
    async close() {
      closed = true;
      const graphs = opened.splice(0).flatMap((each) => each?.graph ?? []);
      for (const graph of graphs) await alone(() => graph.release());
    },
  };
}

function checkNames(
  what: string, kind: string, got: readonly string[], expected: readonly string[], exact: boolean,
): void {
  if (expected.every((name) => got.includes(name)) && (!exact || got.length === expected.length)) return;
  const wanted = repr([...expected].sort());
  throw new IntegrityError(`${what}: its graph's ${kind} are ${repr(got)}, the manifest names ${wanted}; export again`);
}

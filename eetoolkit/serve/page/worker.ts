// The worker: holds the runner, so that the page stays alive while a network runs.

import { load, type Inputs, type Ort, type Progress, type Runner } from "eetoolkit-runtime";
import { readRows } from "./files.js";
import type {
  Asked, Calls, DType, Fault, Kind, Numbers, Opened, Ran, Reply, Request, Row, Sample,
} from "./protocol.js";

interface OrtWeb extends Ort {
  readonly env: Ort["env"] & { readonly wasm: { numThreads?: number; wasmPaths?: string } };
}
interface Port {
  postMessage(reply: Reply): void;
  onmessage: ((event: MessageEvent<Request>) => void) | null;
}
interface Told {
  readonly progress: (progress: Progress) => void;
  readonly signal: AbortSignal;
}

const port = globalThis as unknown as Port;
const stops = new Map<number, AbortController>();
let place = new URL(globalThis.location.href);
let tell = (_progress: Progress): void => undefined; // of the call that now opens what it needs
let opens = 0;
let ready: { readonly ort: OrtWeb; readonly runner: Runner } | null = null;

async function open({ url, threads }: Calls["open"]["ask"], { progress, signal }: Told): Promise<Opened> {
  place = new URL(url);
  const folder = new URL("ort/", globalThis.location.href).href;
  const ort = (await import(`${folder}ort.wasm.min.mjs`)) as OrtWeb;
  ort.env.wasm.wasmPaths = folder;
  ort.env.wasm.numThreads = threads; // counts at the first session alone: another number needs another worker
  tell = progress;
  const heard = (each: Progress): void => {
    opens += Number(each.what === "open");
    tell(each);
  };
  const runner = await load(url, { ort, session: { executionProviders: ["wasm"] }, progress: heard, signal });
  ready = { ort, runner };
  return { plan: { ...runner.plan, constants: new Map() }, threads };
}

function opened(): NonNullable<typeof ready> {
  if (ready === null) throw new Error("the bundle is not open");
  return ready;
}

/** A row as the runner takes it. */
function inputsOf(row: Row): Inputs {
  const { Tensor } = opened().ort;
  type Make = new (dtype: DType, data: Numbers, shape: readonly number[]) => InstanceType<typeof Tensor>;
  const make = Tensor as unknown as Make;
  return new Map([...row].map(([name, { dtype, data, shape }]) => [name, new make(dtype, data, shape)]));
}

async function samples({ signal }: Told): Promise<Sample[]> {
  const golden = await opened().runner.golden({ signal });
  return golden.map(({ inputs, visits }) => ({
    row: new Map([...inputs].map(([name, tensor]) => [
      name, { dtype: tensor.type as DType, shape: tensor.dims, data: tensor.data as Numbers },
    ])),
    said: visits.map(({ exit, prediction }) => ({ exit, prediction })),
  }));
}

/** Runs a row; once more where segments had to be opened first, which is no part of what a call takes. */
async function run(runner: Runner, inputs: Inputs, signal: AbortSignal): Promise<Ran> {
  const before = opens, start = performance.now();
  const { exit, confidence, prediction, path } = await runner.run(inputs, { signal });
  if (opens > before) return run(runner, inputs, signal);
  return { exit, confidence, prediction, path, ms: performance.now() - start };
}

async function answer(asked: Asked, told: Told): Promise<Calls[Kind]["answer"]> {
  if (asked.kind === "open") return open(asked, told);
  const { runner } = opened();
  switch (asked.kind) {
    case "verify": {
      const report = await runner.verify(told);
      return { passed: report.passed, samples: report.samples, lines: report.toString().split("\n") };
    }
    case "profile": {
      const { rows, seconds } = asked;
      return runner.profile({ ...told, seconds, ...(rows !== null && { inputs: rows.map(inputsOf) }) });
    }
    case "samples":
      return samples(told);
    case "read":
      return readRows(runner.plan.inputs, asked.name, asked.bytes);
    case "run":
      tell = told.progress;
      return run(runner, inputsOf(asked.row), told.signal);
  }
}

/** An error as it crosses; files are called as the bundle calls them, without its address. */
function faultOf(error: unknown): Fault {
  const { name, message } = error instanceof Error ? error : { name: "Error", message: String(error) };
  return { name, message: message.replaceAll(place.href, "").replaceAll(place.pathname, "") };
}

async function hear(asked: Asked): Promise<void> {
  const { id } = asked, stop = new AbortController();
  stops.set(id, stop);
  const progress = (each: Progress): void => port.postMessage({ kind: "progress", id, progress: each });
  try {
    port.postMessage({ kind: "answer", id, answer: await answer(asked, { progress, signal: stop.signal }) });
  } catch (error) {
    port.postMessage({ kind: "fault", id, fault: faultOf(error) });
  } finally {
    stops.delete(id);
  }
}

port.onmessage = ({ data }) => {
  if (data.kind === "abort") stops.get(data.id)?.abort();
  else void hear(data);
};

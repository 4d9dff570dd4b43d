// What a bundle costs in this very browser or process: docs/profile.schema.json. Where the clock is too coarse for a
// segment or a call, each of its `runs` is the mean of several in a row, see `Repeats`.

import type { Inputs, ProfileOptions } from "./api.js";
import { backendOf, machineOf, type Machine } from "./device.js";
import { InputError } from "./errors.js";
import { readGolden } from "./golden.js";
import { prepare } from "./inputs.js";
import { median, robustMean, summary, type Latency, type Runs } from "./latency.js";
import type { Threshold } from "./plan.js";
import { measure, type Found, type Paths } from "./rounds.js";
import type { State } from "./runner.js";
import type { AnyTensor } from "./tensors.js";
import { breather, LEAST_STEPS, repeatsFor, timerStepMs } from "./timer.js";

export type { Latency } from "./latency.js";

export interface SegmentCost {
  readonly nodes?: number;
  readonly parameters?: number;
  readonly multiply_adds?: number | null;
  readonly size_bytes: number;
  /** Opening it, once its files were there; left out where it was open before. */
  readonly load_ms?: number;
  readonly latency: Latency | null;
  readonly visits: number;
  readonly exit: string | null;
}

export interface ExitCost {
  readonly latency: Latency | null;
  readonly segments_ms: number | null;
  readonly call: Latency | null;
  readonly called_ms: number | null;
  readonly expected_ms: number;
  readonly share: number;
}

/** A profile, version 6, ready for `JSON.stringify` and `eetoolkit tune --profile`; keys as in docs/bundle-format.md. */
export interface Profile {
  readonly version: 6;
  readonly bundle: string;
  readonly files: Readonly<Record<string, string>>;
  readonly measured: string;
  readonly machine: Machine;
  readonly backend: string;
  readonly timer_step_us: number;
  readonly threads: number | null;
  readonly providers: readonly string[];
  readonly rows: number;
  readonly timed: number;
  readonly no_time_for: readonly string[];
  readonly rounds: number;
  readonly warmup_rounds: number;
  readonly steady: boolean;
  readonly thresholds: Readonly<Record<string, Threshold>>;
  readonly segments: Readonly<Record<string, SegmentCost>>;
  readonly exits: Readonly<Record<string, ExitCost>>;
  readonly expected: Latency;
  readonly full_path: Latency;
  readonly overhead_us: number;
}

const LONGEST_S = 24 * 3600;

/**
 * What each segment and exit costs here. Opens all segments first; between runs it gives way to the page.
 *
 * Throws an `InputError` where there are no inputs or options are wrong, or what `signal` was aborted with.
 */
export async function profile(state: State, options: ProfileOptions = {}): Promise<Profile> {
  const start = performance.now(), measured = `${new Date().toISOString().slice(0, 19)}+00:00`;
  const { seconds = 10, signal, progress = state.options.progress } = options;
  if (!(seconds >= 0 && seconds <= LONGEST_S)) throw new InputError(`seconds is ${seconds}, expected 0 to ${LONGEST_S}`);
  const { ort } = state.options, { plan, steps } = state.program;
  const passed = (): number => (performance.now() - start) / 1e3;
  const given = options.inputs ?? (await readGolden(plan, ort, state.sessions, signal)).map(({ inputs }) => inputs);
  const rows = given.map((inputs) => named(state, inputs));
  const loads = new Map<string, number>();
  for (const { name, index, segment } of steps) {
    if (segment.model === null || state.sessions.opened[index] !== undefined) continue;
    let there = performance.now();
    await state.sessions.open(index, (each) => {
      if (each.what === "fetch") there = performance.now();
      progress?.(each);
    }, signal);
    loads.set(name, performance.now() - there);
  }
  const stepMs = timerStepMs();
  const told = (name: string, rounds: number): void => progress?.({
    what: "profile", name, done: seconds > 0 ? Math.min(passed(), seconds) : rounds, total: seconds || null,
  });
  const budget = { seconds, passed, told, breathe: breather(signal) };
  const found = await measure(state, rows, repeatsFor(stepMs), LEAST_STEPS * stepMs, budget);
  const { backend, threads, providers } = backendOf(ort, state.options.session);
  return {
    version: 6,
    bundle: plan.name,
    files: object([...plan.files].filter(([name]) => name.endsWith(".onnx")), ({ sha256 }) => sha256),
    measured,
    machine: await machineOf(ort, options.processor),
    backend: options.backend ?? backend,
    timer_step_us: Number((1e3 * stepMs).toPrecision(3)),
    threads: options.threads === undefined ? threads : options.threads,
    providers: options.providers ?? providers,
    rows: found.rows.length,
    timed: found.timed,
    no_time_for: [...found.noTimeFor],
    rounds: found.rounds,
    warmup_rounds: found.warmupRounds,
    steady: found.steady,
    thresholds: object(state.program.exits.map((exit) => [exit.name, exit]), ({ threshold }) => threshold),
    segments: segmentsOf(state, found, loads),
    exits: exitsOf(state, found),
    expected: expected(found),
    full_path: summary(found.all.get("full")) as Latency,
    overhead_us: 1e3 * median(found.overheadsMs),
  };
}

const named = ({ program: { plan }, options: { ort } }: State, inputs: Inputs): Map<string, AnyTensor> =>
  new Map(prepare(plan, ort, inputs).map((tensor, index) => [plan.inputs[index]?.name ?? "", tensor]));

function object<T, U>(entries: Iterable<readonly [string, T]>, value: (each: T) => U): Record<string, U> {
  return Object.fromEntries([...entries].map(([name, each]) => [name, value(each)]));
}

const mean = (values: readonly number[]): number => values.reduce((total, each) => total + each, 0) / values.length;

function segmentsOf({ program: { plan } }: State, { rows, segments }: Found, loads: ReadonlyMap<string, number>): Profile["segments"] {
  const found = [...plan.segments].flatMap(([name, { model, weights, work, exit }]): (readonly [string, SegmentCost])[] => {
    if (model === null) return [];
    const load_ms = loads.get(name);
    return [[name, {
      ...work,
      size_bytes: [model, ...weights].reduce((total, file) => total + (plan.files.get(file)?.size ?? 0), 0),
      ...(load_ms !== undefined && { load_ms }),
      latency: summary(segments.get(name)),
      visits: mean(rows.map(({ path }) => path.filter((each) => each === name).length)),
      exit: exit?.name ?? null,
    }]];
  });
  return Object.fromEntries(found);
}

function exitsOf({ program }: State, { rows, segments, reached, exits, calls, called, all }: Found): Profile["exits"] {
  const means = new Map([...segments].map(([name, runs]) => [name, robustMean(runs)]));
  /** What the segments of some paths take in the mean, each path as often as it was run. */
  const meanOf = (paths: Paths, name: string): number | null => {
    const each = [...(paths.get(name) ?? [])].flatMap(([path, count]): number[] => {
      const taken = path.split(" ").reduce((total, segment) => total + (means.get(segment) ?? 0), 0);
      return Array<number>(count).fill(taken);
    });
    return each.length > 0 && mean(each) > 0 ? mean(each) : null;
  };
  const total = all.get("calls")?.length ?? 1;
  return object(program.exits.map(({ name }) => [name, name]), (name): ExitCost => ({
    latency: summary(exits.get(name)),
    segments_ms: meanOf(reached, name),
    call: summary(calls.get(name)),
    called_ms: meanOf(called, name),
    expected_ms: (calls.get(name) ?? []).reduce((sum, { ms }) => sum + ms / total, 0),
    share: mean(rows.map(({ exit }) => Number(exit === name))),
  }));
}

/** All calls; what is robust is so for each exit, since deep calls are no outliers. */
function expected({ all, calls }: Found): Latency {
  const latency = summary(all.get("calls")) as Latency;
  const robust = (runs: Runs): number => (runs.length * robustMean(runs)) / latency.runs;
  return { ...latency, robust_ms: [...calls.values()].reduce((total, runs) => total + robust(runs), 0) };
}

// Takes a profile. Where the clock is too coarse for a segment or a call, each of its `runs` is the mean of several in a
// row, see `Repeats`.

import type { Inputs, ProfileOptions } from "./api.js";
import { backendOf, machineOf } from "./device.js";
import { InputError } from "./errors.js";
import { readGolden } from "./golden.js";
import { prepare } from "./inputs.js";
import { median, robustMean, sum, summary } from "./latency.js";
import type { ExitCost, Latency, Profile, SegmentCost } from "./profile.js";
import { measure, type Found, type Paths } from "./rounds.js";
import type { State } from "./runner.js";
import type { AnyTensor } from "./tensors.js";
import { breather, LEAST_STEPS, repeatsFor, timerStepMs } from "./timer.js";

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
    threads: options.threads === undefined ? threads : options.threads,
    providers: options.providers ?? providers,
    timer_step_us: Number((1e3 * stepMs).toPrecision(3)),
    ...found.counts,
    thresholds: object(state.program.exits.map((exit) => [exit.name, exit]), ({ threshold }) => threshold),
    segments: segmentsOf(state, found, loads),
    exits: exitsOf(state, found),
    expected: expected(found),
    full_path: summary(found.full) as Latency,
    overhead_us: 1e3 * median(found.overheadsMs),
  };
}

const named = ({ program: { plan }, options: { ort } }: State, inputs: Inputs): Map<string, AnyTensor> =>
  new Map(prepare(plan, ort, inputs).map((tensor, index) => [plan.inputs[index]?.name ?? "", tensor]));

function object<T, U>(entries: (readonly [string, T])[], value: (each: T, name: string) => U): Record<string, U> {
  return Object.fromEntries(entries.map(([name, each]) => [name, value(each, name)]));
}

const mean = (values: readonly number[]): number => sum(values) / values.length;

function segmentsOf(
  { program: { plan } }: State, { asked, segments }: Found, loads: ReadonlyMap<string, number>,
): Profile["segments"] {
  const models = [...plan.segments].filter(([, { model }]) => model !== null);
  return object(models, ({ model, weights, work, exit }, name): SegmentCost => ({
    ...work,
    size_bytes: sum([model ?? "", ...weights].map((file) => plan.files.get(file)?.size ?? 0)),
    load_ms: loads.get(name) ?? null,
    latency: summary(segments.get(name)),
    visits: mean(asked.map(({ path }) => path.filter((each) => each === name).length)),
    exit: exit?.name ?? null,
  }));
}

function exitsOf({ program }: State, { asked, segments, reached, exits, all, calls, called }: Found): Profile["exits"] {
  const means = new Map([...segments].map(([name, runs]) => [name, robustMean(runs)]));
  /** What the segments of some calls take in the mean. */
  const meanOf = (paths: Paths, name: string): number | null => {
    const { visits, calls } = paths.get(name) ?? { visits: [], calls: 1 };
    return sum([...visits].map(([segment, count]) => count * (means.get(segment) ?? 0))) / calls || null;
  };
  return object(program.exits.map((exit) => [exit.name, exit]), (_, name): ExitCost => ({
    latency: summary(exits.get(name)),
    segments_ms: meanOf(reached, name),
    call: summary(calls.get(name)),
    called_ms: meanOf(called, name),
    expected_ms: sum((calls.get(name) ?? []).map(({ ms }) => ms)) / all.length,
    share: mean(asked.map(({ exit }) => Number(exit === name))),
  }));
}

/** All calls; what is robust is so for each exit, since deep calls are no outliers. */
function expected({ all, calls }: Found): Latency {
  const robust = [...calls.values()].map((runs) => runs.length * robustMean(runs));
  return { ...(summary(all) as Latency), robust_ms: sum(robust) / all.length };
}

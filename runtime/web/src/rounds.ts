// Rounds over rows, timed until the time is up.

import { InputError } from "./errors.js";
import { add, type Runs } from "./latency.js";
import type { AnyTensor } from "./tensors.js";
import { run, visitExits, type State } from "./runner.js";
import type { Repeats } from "./timer.js";

const ASKED_SHARE = 0.25, WARM_SHARE = 0.4; // of all the time, until asking and warming up have ended
const LEAST_WARMUPS = 3, MOST_WARMUPS = 30;
const STEADY = 0.05; // a round is steady that takes at most so much longer or shorter than the one before
const ROUND_S = 0.25; // a round, about: what the machine's speed changes by meanwhile is a difference
const LEAST_ROUNDS = 5; // where there is time for them
const MOST_TOGETHER = 1e4;

/** A row of inputs by name, and what it answers with the bundle's thresholds. */
export interface Row {
  readonly inputs: ReadonlyMap<string, AnyTensor>;
  /** How many numbers its inputs are. */
  readonly size: number;
  readonly exit: string;
  readonly path: readonly string[];
  /** The exit that ended the call: another where the most confident one answers and was passed. */
  readonly ended: string;
}

/** How often the segments ran in the calls of each name, and how many calls these were. */
export type Paths = Map<string, { calls: number; readonly visits: Map<string, number> }>;

/** Runs, as they come, and what of it stands in the profile as it is. */
export interface Found {
  readonly asked: readonly Row[];
  /** On full paths that are watched segment by segment. */
  readonly segments: Map<string, Runs>;
  /** What ran up to each exit's first visit. */
  readonly reached: Paths;
  /** Of calls that always leave at each exit. */
  readonly exits: Map<string, Runs>;
  /** Full paths that nobody watches. */
  readonly full: Runs;
  /** Calls as in use, all and by the exit that ended them, and their paths. */
  readonly all: Runs;
  readonly calls: Map<string, Runs>;
  readonly called: Paths;
  /** What a full path takes beside its segments' runs, by segment. */
  readonly overheadsMs: readonly number[];
  readonly counts: {
    readonly rows: number;
    readonly timed: number;
    readonly no_time_for: readonly ("inputs" | "warm-up" | "rounds")[];
    readonly rounds: number;
    readonly warmup_rounds: number;
    readonly steady: boolean;
  };
}

/** What is known of the time: all of it in seconds, 0 where it has no bound, and how much has passed. */
export interface Budget {
  readonly seconds: number;
  readonly passed: () => number;
  /** Lets the page live, and throws where the caller has stopped it. */
  readonly breathe: () => Promise<void>;
  readonly told: (what: string, rounds: number) => void;
}

/** Runs rows until the time is up: at least one of them, once in every way. */
export async function measure(
  state: State, given: readonly ReadonlyMap<string, AnyTensor>[], repeats: Repeats, leastMs: number, budget: Budget,
): Promise<Found> {
  const { seconds, passed, breathe, told } = budget;
  const { exits, models } = state.program;
  const ends = new Set(exits.filter(({ threshold }) => threshold === "always").map(({ name }) => name));
  const end = [...ends][0] ?? "";
  const rows: Row[] = [], full: Runs = [], all: Runs = [], overheadsMs: number[] = [];
  const segments = new Map<string, Runs>(), calls = new Map<string, Runs>(), toExits = new Map<string, Runs>();
  const reached: Paths = new Map(), called: Paths = new Map();
  const lacking: Found["counts"]["no_time_for"][number][] = [];
  let rounds = 0, warmups = 0, steady = false;
  const opened = passed();
  const over = (share: number): boolean => seconds > 0 && passed() > opened + share * (seconds - opened);

  /** Runs a row to the end; what its segments took, and how many had run when each exit was first met. */
  async function watch(inputs: Row["inputs"]): Promise<{ took: [string, number][]; met: Map<string, number> }> {
    await breathe();
    const took: [string, number][] = [], met = new Map<string, number>();
    const { times } = repeats;
    const heard = (name: string, ms: number): void => {
      took.push([name, ms / times(name)]);
      repeats.short(name, ms);
    };
    for await (const { exit, path } of visitExits(state, inputs, { times, took: heard })) {
      if (!met.has(exit)) met.set(exit, path.length);
    }
    return { took, met };
  }

  /** Times a call, again where it took so few steps of the clock that they say nothing. */
  async function call(kind: string, { inputs }: Row, exitAt?: string): Promise<{ ms: number; exit: string }> {
    const options = exitAt === undefined ? {} : { exitAt };
    for (;;) {
      await breathe();
      const times = repeats.times(kind);
      let exit = "";
      const start = performance.now();
      for (let left = times; left > 0; left -= 1) ({ exit } = await run(state, inputs, options));
      const ms = performance.now() - start;
      if (!repeats.short(kind, ms)) return { ms: ms / times, exit };
    }
  }

  const callOf = (row: Row): ReturnType<typeof call> => call(`call ${row.path.join(" ")}`, row);

  let rowS = 0;
  for (const inputs of given) {
    await watch(inputs);
    const before = passed();
    await watch(inputs);
    rowS = Math.max(rowS, passed() - before, (leastMs * (models + 1)) / 1e3);
    const { exit, path, stoppedBy } = await run(state, inputs);
    const last = state.program.plan.segments.get(path.at(-1) ?? "")?.exit?.name ?? end;
    const ended = stoppedBy !== "end" || ends.has(exit) ? exit : ends.has(last) ? last : end;
    const size = [...inputs.values()].reduce((total, tensor) => total + tensor.size, 0);
    rows.push({ inputs, size, exit, path, ended });
    told("inputs", 0);
    if (over(ASKED_SHARE)) break;
  }
  if (rows.length === 0) throw new InputError("the bundle has no golden samples; pass inputs");
  if (rows.length < given.length) lacking.push("inputs");

  const leftS = seconds > 0 ? seconds - passed() : Infinity;
  const fitting = Math.min(leftS / LEAST_ROUNDS, ROUND_S) / ((5 + exits.length / 2) * Math.max(rowS, 1e-9));
  const together = Math.max(1, Math.floor(Math.min(fitting, rows.length, MOST_TOGETHER)));

  for (let lastS = Infinity; !steady && warmups < MOST_WARMUPS; ) {
    if (over(WARM_SHARE)) {
      lacking.push("warm-up");
      break;
    }
    const before = passed();
    for (const row of rows.slice(0, together)) {
      await watch(row.inputs);
      await callOf(row);
    }
    const tookS = passed() - before;
    warmups += 1;
    steady = warmups >= LEAST_WARMUPS && Math.abs(tookS - lastS) <= STEADY * lastS;
    lastS = tookS;
    told("warming up", 0);
  }

  async function round(group: readonly Row[]): Promise<void> {
    const watched = [];
    for (const row of group) watched.push({ row, ...(await watch(row.inputs)) });
    for (const { row, took, met } of watched) {
      for (const [name, ms] of took) add(runsOf(segments, name), ms, row.size);
      for (const [exit, count] of met) countPath(reached, exit, took.slice(0, count).map(([name]) => name));
      const { ms, exit } = await call("full", row, end);
      add(full, ms, row.size);
      add(runsOf(toExits, exit), ms, row.size);
      const segmentsMs = took.reduce((total, [, each]) => total + each, 0);
      overheadsMs.push((ms - segmentsMs) / Math.max(1, took.length));
    }
    for (const { name } of exits) {
      if (ends.has(name)) continue;
      for (const { row, met } of watched) {
        if (met.has(name)) add(runsOf(toExits, name), (await call(`to ${name}`, row, name)).ms, row.size);
      }
    }
    for (const row of group) {
      const { ms } = await callOf(row);
      add(all, ms, row.size);
      add(runsOf(calls, row.ended), ms, row.size);
      countPath(called, row.ended, row.path);
    }
    rounds += 1;
  }

  const timed = new Set<Row>();
  let next = 0, longestS = 0;
  do {
    const before = passed();
    const group = Array.from({ length: together }, () => rows[next++ % rows.length] as Row);
    const isNew = rounds > 0 && !timed.has(group.at(-1) as Row);
    for (const row of isNew ? group : group.slice(0, 1)) await watch(row.inputs); // untimed: caches are others, or shapes
    await round(group);
    for (const row of group) timed.add(row);
    longestS = Math.max(longestS, passed() - before);
    told("measuring", rounds);
  } while (seconds > 0 ? passed() + longestS < seconds : rounds < LEAST_ROUNDS);
  if (rounds < LEAST_ROUNDS) lacking.push("rounds");
  return {
    asked: rows, segments, reached, exits: toExits, full, all, calls, called, overheadsMs,
    counts: { rows: rows.length, timed: timed.size, no_time_for: lacking, rounds, warmup_rounds: warmups, steady },
  };
}

/** The value of a name, made where there is none. */
function of<T>(all: Map<string, T>, name: string, make: () => T): T {
  const found = all.get(name) ?? make();
  all.set(name, found);
  return found;
}

const runsOf = (all: Map<string, Runs>, name: string): Runs => of(all, name, () => []);

function countPath(paths: Paths, name: string, path: readonly string[]): void {
  const found = of(paths, name, () => ({ calls: 0, visits: new Map<string, number>() }));
  found.calls += 1;
  for (const segment of path) found.visits.set(segment, (found.visits.get(segment) ?? 0) + 1);
}

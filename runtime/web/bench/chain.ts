// The bundle beside the whole network as one session, in turns in one process or page: benchmarks/web.py asks for it.

import type { InferenceSession } from "onnxruntime-common";
import { load, type Ort, type Plan, type Runner } from "../src/index.js";
import { tensorOf, type AnyTensor } from "../src/tensors.js";
import { readTensors, type Stored } from "../src/tensorfile.js";

/** What benchmarks/web.py decides. */
export interface Setup {
  readonly exits: readonly string[];
  /** The exit of each row, by its place among `exits`. */
  readonly stops: readonly number[];
  /** Files of whole networks to the last exit, by what they are called. */
  readonly wholes: Readonly<Record<string, string>>;
  readonly bundle: readonly string[];
}

interface Way {
  readonly run: (row: number) => Promise<unknown>;
  /** The exit and the logits in what `run` has given. */
  readonly answer: (found: never, row: number) => readonly [exit: number, logits: AnyTensor];
}

type Row = Readonly<Record<string, AnyTensor>>;
type Outputs = Awaited<ReturnType<InferenceSession["run"]>>;

const BLOCK = 25; // rows that one way runs in a turn, as in benchmarks/turns.py
const LEAST_ROUNDS = 2;
const SAME = 1e-4;
const SESSION: InferenceSession.SessionOptions = {
  intraOpNumThreads: 1, interOpNumThreads: 1, freeDimensionOverrides: { batch: 1 }, logSeverityLevel: 3,
};

/** Numbers from 0 to 1 that a seed decides (mulberry32). */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function shuffled<T>(values: readonly T[], random: () => number): T[] {
  const keys = new Map(values.map((value) => [value, random()]));
  return [...values].sort((a, b) => (keys.get(a) ?? 0) - (keys.get(b) ?? 0));
}

/**
 * Opens all ways in an order of the seed's, checks what each answers, and times them in turns.
 *
 * `folder` is where the bundle lies, as it is opened in Node; null: its files are handed over, as in a page.
 * Returns their names and what each row took, ms, by round and way.
 */
export async function measure(
  ort: Ort, read: (file: string) => Promise<Uint8Array>, folder: string | null, seed: number, seconds: number,
): Promise<{ names: string[]; times: number[][][] }> {
  const setup = JSON.parse(new TextDecoder().decode(await read("web.json"))) as Setup;
  const [tensors] = readTensors(await read("rows.safetensors"));
  const files = new Map<string, Uint8Array>();
  for (const file of setup.bundle) files.set(file, await read(`network.ee/${file}`));
  const rows = setup.stops.map((_, index) => rowOf(ort, tensors, index));
  const random = randomOf(seed + 1);
  const ways = new Map<string, Way>();
  const open = new Map<string, () => Promise<void>>([
    ["bundle", async () => {
      const runner = await load(folder ?? files, { ort, session: SESSION, open: "eager" });
      for (const [name, way] of bundleWays(runner, setup, rows)) ways.set(name, way);
    }],
    ["by hand", async () => void ways.set("by hand", await byHand(ort, files, setup, rows))],
    ...Object.entries(setup.wholes).map(([name, file]) => [name, async () => {
      const session = await ort.InferenceSession.create(await read(file), SESSION);
      const last = setup.exits.length - 1, logits = `${setup.exits[last]}_logits`;
      ways.set(name, {
        run: (row) => session.run(rows[row] as Row),
        answer: (found: Outputs) => [last, found[logits] as AnyTensor],
      });
    }] as const),
  ]);
  for (const name of shuffled([...open.keys()], random)) await open.get(name)?.();
  const names = [...ways.keys()].sort();
  for (const name of names) await check(name, ways.get(name) as Way, setup, tensors, rows.length);
  return { names, times: await inTurns(names.map((name) => ways.get(name) as Way), rows.length, seconds, random) };
}

function rowOf(ort: Ort, tensors: ReadonlyMap<string, Stored>, index: number): Row {
  const start = `${index}.`;
  const inputs = [...tensors].filter(([name]) => name.startsWith(start));
  return Object.fromEntries(inputs.map(([name, { dtype, data, shape }]) =>
    [name.slice(start.length), tensorOf(ort, dtype, data, shape)]));
}

/** The runner, as in use and to the end. */
function bundleWays(runner: Runner, setup: Setup, rows: readonly Row[]): (readonly [string, Way])[] {
  const last = setup.exits.at(-1) ?? "";
  const answer = ({ exit, outputs }: Awaited<ReturnType<Runner["run"]>>): readonly [number, AnyTensor] =>
    [setup.exits.indexOf(exit), outputs.get("logits") as AnyTensor];
  return [
    ["bundle", { run: (row) => runner.run(rows[row] as Row), answer }],
    ["bundle, full path", { run: (row) => runner.run(rows[row] as Row, { exitAt: last }), answer }],
  ];
}

/** A chain's sessions, run one after the other to the end by the least that onnxruntime's interface takes. */
async function byHand(
  ort: Ort, files: ReadonlyMap<string, Uint8Array>, setup: Setup, rows: readonly Row[],
): Promise<Way> {
  const runner = await load(files, { ort });
  const plan: Plan = runner.plan;
  const steps: { session: InferenceSession; reads: (readonly [string, string])[]; writes: (readonly [string, string])[] }[] = [];
  const constants: Row = Object.fromEntries([...plan.constants].map(([name, { dtype, shape, data }]) =>
    [name, new ort.Tensor(dtype as "float32", Float32Array.from(data as number[]), shape)]));
  let logits = "";
  for (let name = plan.start; name !== ""; ) {
    const segment = plan.segments.get(name);
    if (segment === undefined || segment.next.kind === "gate" || segment.next.kind === "switch") throw new Error("no chain");
    if (segment.model !== null) {
      const externalData = segment.weights.map((path) => ({ path, data: files.get(path) as Uint8Array }));
      const session = await ort.InferenceSession.create(files.get(segment.model) as Uint8Array, { ...SESSION, externalData });
      const writes = [...segment.writes].flatMap(([slot, { kind, name: from }]) =>
        kind === "output" ? [[slot, from] as const] : []);
      steps.push({ session, reads: [...segment.reads], writes });
    }
    logits = segment.exit?.outputs.get("logits") ?? logits;
    name = segment.next.kind === "goto" ? segment.next.segment : "";
  }
  await runner.close();
  return {
    async run(row) {
      const tensors: Record<string, AnyTensor> = { ...constants, ...rows[row] };
      for (const { session, reads, writes } of steps) {
        const feeds: Record<string, AnyTensor> = {};
        for (const [input, from] of reads) feeds[input] = tensors[from] as AnyTensor;
        const made = await session.run(feeds);
        for (const [slot, output] of writes) tensors[slot] = made[output] as AnyTensor;
      }
      return tensors;
    },
    answer: (found: Record<string, AnyTensor>) => [setup.exits.length - 1, found[logits] as AnyTensor],
  };
}

/** Refuses to time what answers otherwise than the eager network, or leaves elsewhere. */
async function check(
  name: string, way: Way, setup: Setup, tensors: ReadonlyMap<string, Stored>, count: number,
): Promise<void> {
  for (let row = 0; row < count; row++) {
    const [exit, logits] = way.answer((await way.run(row)) as never, row);
    const wanted = tensors.get(`logits${exit}`) as Stored;
    if (name === "bundle" && exit !== setup.stops[row]) throw new Error(`${name} leaves row ${row} at exit ${exit}`);
    const classes = wanted.shape[1] ?? 0, found = logits.data as Float32Array;
    const expected = (wanted.data as Float32Array).subarray(row * classes, (row + 1) * classes);
    const largest = Math.max(1, ...expected.map(Math.abs));
    const differs = Math.max(...expected.map((value, index) => Math.abs(value - (found[index] ?? NaN)))) / largest;
    if (!(found.length === classes && differs <= SAME)) throw new Error(`${name} answers otherwise on row ${row}: ${differs}`);
  }
}

/** As `timed` in benchmarks/turns.py. */
async function inTurns(ways: readonly Way[], count: number, seconds: number, random: () => number): Promise<number[][][]> {
  const rounds: number[][][] = [];
  const ends = performance.now() + 1e3 * seconds;
  while (rounds.length < LEAST_ROUNDS || performance.now() < ends) {
    const found = ways.map(() => Array<number>(count).fill(NaN));
    const order = shuffled(Array.from({ length: count }, (_, row) => row), random);
    for (let start = 0; start < count; start += BLOCK) {
      const block = order.slice(start, start + BLOCK);
      for (const place of shuffled([...ways.keys()], random)) {
        const { run } = ways[place] as Way, times = found[place] as number[];
        await run(block[0] as number);
        for (const row of block) {
          const before = performance.now();
          await run(row);
          times[row] = performance.now() - before;
        }
      }
    }
    rounds.push(found);
  }
  return rounds;
}

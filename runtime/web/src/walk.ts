// One run: follows the program from exit to exit (docs/bundle-format.md, "A run").

import { allows, ended, inTime, type Pace, type Watch } from "./deadline.js";
import { RunError, firstLine } from "./errors.js";
import { repr } from "./printable.js";
import type { Move, Program, Step, StepExit } from "./program.js";
import { occupy, turn } from "./queue.js";
import type { Sessions } from "./sessions.js";
import { isNear, type AnyTensor } from "./tensors.js";

/** An exit that a row has met, with the tensors of its outputs as they were then. */
export interface Met {
  readonly exit: StepExit;
  readonly confidence: number;
  readonly tensors: readonly AnyTensor[];
  /** Whether the plan ends here. */
  readonly last: boolean;
}

/** Is told of every segment that has run, with its milliseconds without loading: those of all `times` in a row. */
export interface Hooks {
  readonly took?: (segment: string, ms: number) => void;
  /** How often a segment is run in a row, whose tensors stay those of the last time; 1 where it is not told. */
  readonly times?: (segment: string) => number;
}

export interface Walk {
  /** Runs on to the next exit; null at the end, or where the watch has stopped it. */
  next(): Promise<Met | null>;
  /** Lets go of all tensors on a GPU that were made here. */
  end(): void;
  readonly path: readonly string[];
  readonly gates: readonly (readonly [segment: string, decision: number])[];
}

type Made = Record<string, AnyTensor>;

const TIMED = 3; // runs of each segment that are timed without being asked: a later deadline goes by the least

/** Begins a run over tensors in the places of the program: inputs and constants. */
export function walk(
  program: Program, sessions: Sessions, places: AnyTensor[], watch: Watch | null, hooks: Hooks,
): Walk {
  const { steps } = program;
  const path: string[] = [];
  const gates: (readonly [string, number])[] = [];
  const visits = new Uint32Array(steps.length);
  let far: AnyTensor[] = []; // on a GPU, and made here
  const met = new Set<AnyTensor>(); // what answers may still be made of
  let step: Step | undefined = steps[program.start];
  let entered = false; // whether `step` has run, and only what follows it is due

  /** The graph's outputs; null where the watch lets it not run. */
  async function run(step: Step): Promise<Made | null> {
    const pace = sessions.paces[step.index] as Pace;
    if (watch !== null && !allows(watch, pace)) return null;
    let session = sessions.opened[step.index];
    if (session === undefined) {
      const opening = sessions.open(step.index);
      if (watch !== null && (!(await inTime(watch, opening)) || !allows(watch, pace))) return null;
      session = await opening;
    }
    const feeds: Record<string, AnyTensor> = {};
    for (const { input, place } of step.feeds) feeds[input] = places[place] as AnyTensor;
    const { graph, fetches } = session;
    const timed = watch !== null || pace.runs < TIMED || hooks.took !== undefined;
    let started = 0, made: Made = {};
    try {
      for (let left = hooks.times?.(step.name) ?? 1; left > 0; left -= 1) {
        while (turn.busy !== null) {
          if (watch === null) await turn.busy;
          else if (!(await inTime(watch, turn.busy)) || !allows(watch, pace)) return null;
        }
        const free = occupy();
        try {
          if (timed && started === 0) started = performance.now();
          made = (await (fetches === null ? graph.run(feeds) : graph.run(feeds, fetches))) as Made;
        } finally {
          free();
        }
        for (const name in made) if (!isNear(made[name] as AnyTensor)) far.push(made[name] as AnyTensor);
      }
    } catch (error) {
      throw new RunError(`segment ${repr(step.name)}: ${firstLine(error)}`, { cause: error });
    }
    if (timed) {
      const tookMs = performance.now() - started;
      if (hooks.times === undefined) ended(pace, tookMs);
      hooks.took?.(step.name, tookMs);
    }
    path.push(step.name);
    return made;
  }

  /** The one value in a place; a promise where it is on a GPU. */
  function one(step: Step, what: string, place: number): number | Promise<number> {
    const tensor = places[place] as AnyTensor;
    const valueOf = (values: ArrayLike<unknown>): number => {
      if (values.length === 1) return Number(values[0]);
      const name = repr([...program.places.keys()][place] ?? "");
      throw new RunError(`segment ${repr(step.name)}: the ${what} ${name} has ${values.length} values, expected one`);
    };
    return isNear(tensor) ? valueOf(tensor.data) : tensor.getData().then(valueOf);
  }

  function letGo(unused: (tensor: AnyTensor) => boolean): void {
    far = far.filter((tensor) => !unused(tensor) || tensor.dispose());
  }

  async function decide(step: Step): Promise<Step | undefined> {
    const { next } = step.segment;
    let decided = await one(step, next.kind, step.on);
    if (next.kind === "gate") decided = decided ? 1 : 0;
    else if (next.kind === "switch" && !(decided >= 0 && decided < next.cases.length)) {
      const what = `segment ${repr(step.name)}: the switch ${repr(next.on)}`;
      throw new RunError(`${what} is ${decided}, expected 0 to ${next.cases.length - 1}`);
    }
    gates.push([step.name, decided]);
    return steps[step.next[decided] ?? -1];
  }

  return {
    path,
    gates,
    async next() {
      for (;;) {
        if (entered && step !== undefined) step = step.on < 0 ? steps[step.next[0] ?? -1] : await decide(step);
        entered = false;
        if (step === undefined) return null;
        const { index, segment, exit, name, moves } = step;
        const seen = (visits[index] = (visits[index] ?? 0) + 1);
        if (segment.max_visits !== null && seen > segment.max_visits) {
          const most = segment.max_visits;
          throw new RunError(`segment ${repr(name)}: more than max_visits ${most} visits; is the loop endless?`);
        }
        let made: Made | null = null;
        if (segment.model !== null && (made = await run(step)) === null) return (step = undefined), null;
        const found = moves.map(({ output, from }) => (output === null ? places[from] : made?.[output]) as AnyTensor);
        // All at once: two slots may swap.
        for (let at = 0; at < moves.length; at++) places[(moves[at] as Move).to] = found[at] as AnyTensor;
        if (far.length > places.length) letGo((tensor) => !places.includes(tensor) && !met.has(tensor));
        entered = true;
        if (exit === null) continue;
        const read = one(step, "confidence", exit.confidence);
        const confidence = typeof read === "number" ? read : await read;
        const tensors = exit.outputs.map(({ place }) => places[place] as AnyTensor);
        if (far.length > 0) tensors.forEach((tensor) => met.add(tensor));
        return { exit, confidence, tensors, last: segment.next.kind === "stop" };
      }
    },
    end: () => letGo(() => true),
  };
}

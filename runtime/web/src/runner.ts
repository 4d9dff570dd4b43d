// The runner: follows a bundle's plan and stops at the first confident exit.

import type { Answer, Inputs, LoadOptions, RunOptions } from "./api.js";
import { answerOf, better, decide, fires, type Decision } from "./answer.js";
import { tooLate, watchOf, type Watch } from "./deadline.js";
import { InputError, RunError } from "./errors.js";
import { prepare } from "./inputs.js";
import { repr } from "./printable.js";
import type { Program } from "./program.js";
import { check } from "./queue.js";
import { CLOSED, type Sessions } from "./sessions.js";
import type { Folder } from "./source.js";
import { constantOf, type AnyTensor } from "./tensors.js";
import { walk, type Hooks, type Met, type Walk } from "./walk.js";

const OPTIONS: ReadonlySet<string> = new Set<keyof RunOptions>(["exitAt", "thresholds", "deadlineMs", "signal"]);

/** What the calls of one runner share. */
export interface State {
  readonly program: Program;
  readonly sessions: Sessions;
  readonly folder: Folder;
  readonly options: LoadOptions;
  readonly own: Decision;
  /** Decisions of calls that asked for an exit alone. */
  readonly at: Map<string, Decision>;
  /** The constants and empty places behind the inputs. */
  readonly constants: readonly AnyTensor[];
  /** How many calls are going on; `closed` and `idle` are for `close`, which waits for them. */
  calls: number;
  closed: boolean;
  idle: (() => void) | null;
  closing: Promise<void> | null;
}

/** The state of a runner over a program. */
export function stateOf(program: Program, sessions: Sessions, folder: Folder, options: LoadOptions): State {
  const own = decide(program, (options.fallback ?? program.plan.fallback) === "most_confident");
  const constants = [...program.plan.constants.values()].map((each) => constantOf(options.ort, each));
  const idle = { calls: 0, closed: false, idle: null, closing: null };
  return { program, sessions, folder, options, own, at: new Map(), constants, ...idle };
}

/** Counts a call, which `leave` must end. */
export function enter(state: State): void {
  if (state.closed) throw new RunError(CLOSED);
  state.calls += 1;
}

/** Ends a call. */
export function leave(state: State): void {
  state.calls -= 1;
  if (state.calls === 0) state.idle?.();
}

function decisionOf({ program, at }: State, options: RunOptions, own: Decision): Decision {
  for (const name in options) {
    if (!OPTIONS.has(name)) throw new InputError(`no option ${repr(name)}; there are ${[...OPTIONS].join(", ")}`);
  }
  const { exitAt, thresholds } = options;
  if (thresholds !== undefined) return decide(program, own.mostConfident, options);
  if (exitAt === undefined) return own;
  const found = at.get(exitAt) ?? decide(program, false, options);
  at.set(exitAt, found);
  return found;
}

interface Run {
  readonly walk: Walk;
  readonly answer: (met: Met, stoppedBy: Answer["stoppedBy"], over: boolean) => Promise<Answer>;
}

function begin(state: State, inputs: Inputs, watch: Watch | null, hooks: Hooks): Run {
  const { program, sessions, constants, options: { ort } } = state;
  const given = prepare(program.plan, ort, inputs);
  const walking = walk(program, sessions, [...given, ...constants], watch, hooks);
  const answer: Run["answer"] = (met, stoppedBy, over) => {
    const [path, gates] = over ? [walking.path, walking.gates] : [[...walking.path], [...walking.gates]];
    const own = (tensor: AnyTensor): boolean => over && tensor.location === "cpu" && !constants.includes(tensor);
    return answerOf(ort, program.models, met, { path, gates, stoppedBy }, own);
  };
  return { walk: walking, answer };
}

const how = (met: Met): Answer["stoppedBy"] => (met.last ? "end" : "exit");

/** The answer of the first exit that fires, or the best where none did; `own` decides where options do not. */
export async function run(state: State, inputs: Inputs, options: RunOptions = {}, own = state.own): Promise<Answer> {
  enter(state);
  try {
    const watch = watchOf(options);
    const decision = decisionOf(state, options, own);
    const { walk, answer } = begin(state, inputs, watch, {});
    try {
      let best: Met | null = null, last: Met | null = null;
      for (let met = await walk.next(); met !== null; met = await walk.next()) {
        last = met;
        if (fires(decision, met)) return await answer(met, how(met), true);
        if (better(decision, met, best)) best = met;
      }
      if (watch !== null && watch.stoppedBy !== null) {
        if (best === null) throw tooLate(watch, walk.path);
        return await answer(best, watch.stoppedBy, true);
      }
      if (best === null || last === null) throw new RunError("the plan ended without an exit");
      return await answer(best, how(last), true);
    } finally {
      walk.end();
    }
  } finally {
    leave(state);
  }
}

/** The answers of all exits that a row meets, none firing; those that are better than all before where asked for. */
async function* visit(
  state: State, { walk, answer }: Run, watch: Watch | null, only: Decision | null,
): AsyncGenerator<Answer, void, undefined> {
  try {
    let best: Met | null = null;
    for (;;) {
      let found: Answer | null = null;
      enter(state); // not while the caller thinks, who may never ask again
      try {
        const met = await walk.next();
        if (met === null) break;
        if (only !== null && !better(only, met, best)) continue;
        best = met;
        found = await answer(met, how(met), false);
      } finally {
        leave(state);
      }
      yield found;
    }
    if (watch !== null && watch.stoppedBy !== null && (best === null || only === null)) throw tooLate(watch, walk.path);
  } finally {
    walk.end();
  }
}

/** The answers of all exits that a row meets on its way to the end, none of them firing, as they are met. */
export function visitExits(
  state: State, inputs: Inputs, hooks: Hooks = {}, signal?: AbortSignal,
): AsyncGenerator<Answer, void, undefined> {
  const watch = signal === undefined ? null : watchOf({ signal });
  return visit(state, begin(state, inputs, watch, hooks), watch, null);
}

/** All of `visitExits`; rejects with the signal's reason. */
export async function runAllExits(
  state: State, inputs: Inputs, options: Pick<RunOptions, "signal"> = {},
): Promise<Answer[]> {
  const answers: Answer[] = [];
  try {
    for await (const answer of visitExits(state, inputs, {}, options.signal)) answers.push(answer);
  } catch (error) {
    check(options.signal);
    throw error;
  }
  return answers;
}

/** The answers of enabled exits, each at least as good as those before; throws at once what is wrong with inputs. */
export function refine(
  state: State, inputs: Inputs, options: Pick<RunOptions, "deadlineMs" | "signal"> = {},
): AsyncGenerator<Answer, void, undefined> {
  const watch = watchOf(options);
  return visit(state, begin(state, inputs, watch, {}), watch, state.own);
}

/** Refuses later calls, waits for those that are going on, and releases the sessions. */
export function close(state: State): Promise<void> {
  state.closed = true;
  return (state.closing ??= (async () => {
    if (state.calls > 0) await new Promise<void>((resolve) => (state.idle = resolve));
    await state.sessions.close();
  })());
}

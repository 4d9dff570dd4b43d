// A plan made ready to be followed: names become places in arrays, once for all runs.

import { successors } from "./flow.js";
import { exitsOf, type Exit, type Plan, type Segment } from "./plan.js";

/** Where a slot takes its tensor from: an output of the graph by name, or another place. */
export interface Move {
  readonly to: number;
  readonly from: number;
  readonly output: string | null;
}

export interface Step {
  readonly name: string;
  readonly index: number;
  readonly segment: Segment;
  /** The graph's inputs and the places of their tensors. */
  readonly feeds: readonly { readonly input: string; readonly place: number }[];
  /** The outputs of the graph that slots take, each once. */
  readonly fetches: readonly string[];
  readonly moves: readonly Move[];
  readonly exit: StepExit | null;
  /** The place of what a gate or switch decides by; -1: nothing is decided. */
  readonly on: number;
  /** The indices of the steps that may be next: of a gate `else` and `then`, of a switch its cases; none at a stop. */
  readonly next: readonly number[];
}

export interface StepExit {
  readonly exit: Exit;
  /** The exit's number among the plan's exits. */
  readonly index: number;
  readonly confidence: number;
  readonly outputs: readonly { readonly name: string; readonly place: number }[];
}

export interface Program {
  readonly plan: Plan;
  readonly steps: readonly Step[];
  readonly start: number;
  /** The places: inputs in order, then constants, then slots. */
  readonly places: ReadonlyMap<string, number>;
  readonly exits: readonly Exit[];
  /** How many segments have a model. */
  readonly models: number;
}

/** A proved plan as a program. */
export function compile(plan: Plan): Program {
  const names = [...plan.inputs.map(({ name }) => name), ...plan.constants.keys(), ...plan.slots.keys()];
  const places = new Map(names.map((name, place) => [name, place]));
  const at = (name: string): number => places.get(name) ?? -1;
  const order = [...plan.segments.keys()];
  const exits = [...exitsOf(plan).values()];
  const steps = [...plan.segments].map(([name, segment], index): Step => {
    const { next, exit } = segment;
    const following = next.kind === "gate" ? [next.else, next.then] : successors(segment);
    const moves = [...segment.writes].map(([slot, source]) => ({
      to: at(slot),
      from: source.kind === "output" ? -1 : at(source.name),
      output: source.kind === "output" ? source.name : null,
    }));
    return {
      name, index, segment, moves,
      feeds: [...segment.reads].map(([input, from]) => ({ input, place: at(from) })),
      fetches: [...new Set(moves.flatMap(({ output }) => output ?? []))],
      exit: exit && {
        exit,
        index: exits.findIndex((each) => each.name === exit.name),
        confidence: at(exit.confidence),
        outputs: [...exit.outputs].map(([output, slot]) => ({ name: output, place: at(slot) })),
      },
      on: "on" in next ? at(next.on) : -1,
      next: following.map((each) => order.indexOf(each)),
    };
  });
  const models = steps.filter(({ segment }) => segment.model !== null).length;
  return { plan, steps, start: order.indexOf(plan.start), places, exits, models };
}

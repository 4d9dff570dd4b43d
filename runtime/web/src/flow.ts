// Where a plan's segments lead, and which slots decide.

import { mapValues, type Segment } from "./plan.js";
import { repr } from "./printable.js";

/** Edges of a graph: what each node leads to. */
export type Edges = Map<string, readonly string[]>;

/** Returns the names of the segments that may run next. */
export function successors({ next }: Segment): readonly string[] {
  switch (next.kind) {
    case "goto": return [next.segment];
    case "gate": return [next.then, next.else];
    case "switch": return next.cases;
    case "stop": return [];
  }
}

/** Returns (what for, slot) of every slot looked at after the segment's writes: its exit's and its gate's. */
export function lookedAt({ exit, next }: Segment): (readonly [what: string, slot: string])[] {
  const found: [string, string][] = [];
  if (exit) {
    for (const [name, slot] of exit.outputs) found.push([`exit output ${repr(name)}`, slot]);
    found.push(["confidence", exit.confidence]);
  }
  if (next.kind === "gate" || next.kind === "switch") found.push([next.kind, next.on]);
  return found;
}

/** Returns what edges lead to from any of `start`, these included. */
export function closure(start: Iterable<string>, edges: Edges): Set<string> {
  const found = new Set(start);
  for (const name of found) for (const other of edges.get(name) ?? []) found.add(other); // a Set grows as it is walked
  return found;
}

/** Returns the edges the other way round, as far as they lead to nodes of the graph. */
export function turned(edges: Edges): Edges {
  const found = mapValues(edges, (): string[] => []);
  for (const [name, others] of edges) for (const other of others) found.get(other)?.push(name);
  return found;
}

/** Returns what is left of a graph when nodes to which nothing leads are taken off in turn (Kahn's algorithm). */
export function withoutSources(edges: Edges): Edges {
  const left = new Map(edges);
  const arrows = mapValues(turned(edges), ({ length }) => length);
  const free = [...left.keys()].filter((name) => arrows.get(name) === 0);
  for (const name of free) {
    for (const other of left.get(name) ?? []) {
      const count = (arrows.get(other) ?? 0) - 1;
      arrows.set(other, count);
      if (count === 0) free.push(other);
    }
    left.delete(name);
  }
  return left;
}

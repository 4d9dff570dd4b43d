// That a plan's segments lead to a stop, that loops are bounded, and that no slot is read before it is written.

import { ManifestError } from "./errors.js";
import { closure, lookedAt, successors, turned, withoutSources, type Edges } from "./flow.js";
import type { Manifest } from "./manifest-types.js";
import { failing, inputNames, refuse } from "./names.js";
import { exitsOf, mapValues } from "./plan.js";
import { repr, reprFloat } from "./printable.js";

/** Throws a `ManifestError` where some path does not end at an exit, or a loop has no bound. */
export function checkFlow({ start, segments, profile, quantization, split }: Manifest): void {
  if (!segments.has(start)) refuse(`start is ${repr(start)}, which is not a segment`);
  const edges: Edges = mapValues(segments, successors);
  for (const [name, { exit, next }] of segments) {
    const fail = failing(name);
    if (next.kind === "switch" && next.cases.length === 0) fail("a switch without cases");
    for (const other of edges.get(name) ?? []) {
      if (!segments.has(other)) fail(`goes to ${repr(other)}, which is not a segment`);
    }
    const ends = exit?.threshold === "always";
    if (next.kind === "stop") {
      if (!exit) fail("stops without an exit");
      else if (!ends) {
        const got = typeof exit.threshold === "number" ? reprFloat(exit.threshold) : repr(exit.threshold);
        fail(`exit ${repr(exit.name)} ends the plan: "threshold" is ${got}, expected "always"`);
      }
    } else if (exit && ends) {
      fail(`exit ${repr(exit.name)} has the threshold "always" but does not stop`);
    }
  }
  const none = (names: Iterable<string>, text: string): void => {
    const found = [...names].sort();
    if (found.length > 0) throw new ManifestError(`segments ${repr(found)} ${text}`);
  };
  const outside = (reached: Set<string>): string[] => [...segments.keys()].filter((name) => !reached.has(name));
  none(outside(closure([start], edges)), `cannot be reached from ${repr(start)}`);
  const stops = [...segments].filter(([, { next }]) => next.kind === "stop").map(([name]) => name);
  none(outside(closure(stops, turned(edges))), "cannot reach a stop: the plan would loop for ever");

  for (const name of profile?.expected_ms.keys() ?? []) {
    if (!segments.has(name)) refuse(`profile names ${repr(name)}, which is not a segment`);
  }
  checkQuantization(segments, quantization);
  checkSplit(segments, split);

  const free = new Map(edges); // without the segments that bound their visits: what goes round here has no bound
  for (const [name, { model, max_visits }] of segments) if (model && max_visits) free.delete(name);
  none(
    withoutSources(turned(withoutSources(free))).keys(),
    "lie on a cycle without a bound: give one with a model `max_visits`",
  );
}

function checkQuantization(segments: Manifest["segments"], quantization: Manifest["quantization"]): void {
  if (!quantization) return;
  const { segments: methods, activations } = quantization;
  for (const name of methods.keys()) {
    if (segments.get(name)?.model == null) {
      refuse(`quantization names ${repr(name)}, which is not a segment with a model`);
    }
  }
  if ([...methods.values()].includes("static") !== (activations !== null)) {
    refuse(`quantization: activations ${repr(activations)}, those of static segments alone`);
  }
}

function checkSplit(segments: Manifest["segments"], split: Manifest["split"]): void {
  if (!split) return;
  const found = exitsOf({ segments });
  const exit = found.get(split.exit);
  if (exit?.threshold !== "always") {
    refuse(`split hands over at ${repr(split.exit)}, which is not an exit that ends the plan`);
  }
  if (!found.has(split.local) || split.local === split.exit) {
    refuse(`split stands in for ${repr(split.local)}, which is not another exit`);
  }
  const sizes = { answers: split.answers.length, sends: split.sends.size, exits: split.exits.length };
  for (const [key, size] of Object.entries(sizes)) if (size === 0) refuse(`split: ${repr(key)} is empty`);
  for (const name of [...split.answers, ...split.sends.values()]) {
    if (!exit.outputs.has(name)) refuse(`split takes ${repr(name)}, which is not an output of ${repr(split.exit)}`);
  }
  if (new Set(split.exits.map(({ name }) => name)).size !== split.exits.length) {
    refuse("split: two exits of one name");
  }
}

/** Throws a `ManifestError` where some path reads a slot before it is written (a forward must-analysis). */
export function checkAssignment(plan: Manifest): void {
  const { start, slots, constants, segments } = plan;
  const inputs = inputNames(plan);
  // Sets of inputs and slots are numbers, a bit for each: sets of names would fill the memory in a long plan.
  const bits = new Map<string, bigint>();
  for (const name of [...inputs, ...slots.keys()]) bits.set(name, 1n << BigInt(bits.size));
  const maskOf = (names: Iterable<string>): bigint => {
    let mask = 0n;
    for (const name of names) mask |= bits.get(name) ?? 0n;
    return mask;
  };
  const all = (1n << BigInt(bits.size)) - 1n;
  const writes = mapValues(segments, (segment) => maskOf(segment.writes.keys()));
  const before = mapValues(segments, () => all);
  before.set(start, maskOf(inputs));
  const waiting = new Set(segments.keys()); // it grows as it is walked
  for (const name of waiting) {
    waiting.delete(name);
    const segment = segments.get(name);
    const after = (before.get(name) ?? 0n) | (writes.get(name) ?? 0n);
    for (const other of segment ? successors(segment) : []) {
      const known = (before.get(other) ?? 0n) & after;
      if (known === before.get(other)) continue;
      before.set(other, known);
      waiting.add(other);
    }
  }
  for (const [name, segment] of segments) {
    const fail = failing(name);
    const known = before.get(name) ?? 0n;
    const after = known | (writes.get(name) ?? 0n);
    const has = (set: bigint, slot: string): boolean => (set & (bits.get(slot) ?? 0n)) !== 0n;
    for (const source of segment.reads.values()) {
      if (!constants.has(source) && !has(known, source)) {
        fail(`reads ${repr(source)}, which some path to it leaves unwritten`);
      }
    }
    for (const { kind, name: source } of segment.writes.values()) {
      if (kind === "slot" && !has(known, source)) {
        fail(`moves ${repr(source)}, which some path to it leaves unwritten`);
      }
    }
    for (const [what, slot] of lookedAt(segment)) {
      if (!has(after, slot)) fail(`${what} ${repr(slot)} is left unwritten by some path`);
    }
  }
}

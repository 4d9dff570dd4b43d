// Proofs about a plan, before anything runs: that it can run to an answer whatever its gates say.

import { ManifestError } from "./errors.js";
import { lookedAt } from "./flow.js";
import type { Manifest } from "./manifest-types.js";
import { checkNames, failing, first, folded, inputNames, isPlain, refuse } from "./names.js";
import { MANIFEST, type DType, type Segment, type Slot } from "./plan.js";
import { repr } from "./printable.js";
import { checkAssignment, checkFlow } from "./validate-flow.js";
import { checkConstants, preprocessProblem } from "./values.js";

const MOST_SEGMENTS = 4096; // so that the proofs, whose time grows with both, stay short whatever a plan holds
const MOST_SLOTS = 16384;
const MOST_ELEMENTS = 2 ** 40;
const LONGEST_NAME_BYTES = 255; // of a file, on all common file systems

/** Throws a `ManifestError` that says why a plan may not run to an answer. */
export function validate(plan: Manifest): void {
  for (const [what, { size }, most] of [
    ["segments", plan.segments, MOST_SEGMENTS], ["slots", plan.slots, MOST_SLOTS],
  ] as const) {
    if (size > most) refuse(`${size} ${what}, a plan has at most ${most}`);
  }
  checkNames(plan);
  checkDefinitions(plan);
  checkSegments(plan);
  checkTwins(plan);
  checkFiles(plan);
  checkFlow(plan);
  checkAssignment(plan);
  checkTypes(plan);
}

function checkDefinitions(plan: Manifest): void {
  const { slots, constants, limits, preprocess } = plan;
  const inputs = inputNames(plan);
  const distinct = new Set(inputs);
  if (inputs.length === 0) refuse("no inputs");
  if (distinct.size !== inputs.length) refuse(`two inputs of one name among ${repr(inputs)}`);
  const shared = [...slots.keys(), ...inputs].filter((name) => constants.has(name));
  shared.push(...inputs.filter((name) => slots.has(name)));
  if (shared.length > 0) {
    refuse(`inputs, slots and constants share the names ${repr([...new Set(shared)].sort())}`);
  }
  const symbols = new Set(plan.inputs.flatMap(({ shape }) => shape));
  for (const [symbol, { min, max }] of limits) {
    if (!symbols.has(symbol)) refuse(`limits names ${repr(symbol)}, which is no dimension of the inputs`);
    if (max !== null && max < min) refuse(`limits of ${repr(symbol)}: ${min} to ${max} is no size`);
  }
  checkConstants(plan);
  const unknown = [...preprocess.keys()].filter((name) => !distinct.has(name)).sort();
  if (unknown.length > 0) refuse(`preprocess names ${repr(unknown)}, the inputs are ${repr(inputs)}`);
  for (const spec of plan.inputs) {
    const asked = preprocess.get(spec.name);
    const problem = asked && preprocessProblem(asked, spec);
    if (problem) throw new ManifestError(`preprocess of ${repr(spec.name)}: ${problem}`);
  }
}

/** Every name that a segment uses is defined. */
function checkSegments(plan: Manifest): void {
  const { slots, constants, segments } = plan;
  const tensors = new Set([...slots.keys(), ...inputNames(plan)]);
  for (const [name, segment] of segments) {
    const fail = failing(name);
    const { model, reads, writes } = segment;
    for (const [input, source] of reads) {
      if (!tensors.has(source) && !constants.has(source)) {
        fail(`reads ${repr(input)} from ${repr(source)}, which is not defined`);
      }
    }
    let takes = false;
    for (const [slot, { kind, name: from }] of writes) {
      if (!slots.has(slot)) fail(`writes ${repr(slot)}, which is not among the slots`);
      if (kind === "slot" && !tensors.has(from)) fail(`moves ${repr(from)} to ${repr(slot)}, which is not defined`);
      if (kind === "constant" && !constants.has(from)) fail(`moves the constant ${repr(from)}, which is not defined`);
      if (kind === "output" && model === null) fail(`takes output ${repr(from)} but has no model`);
      takes ||= kind === "output";
    }
    if (model !== null && !takes) fail("has a model but takes no output of it");
    if (model === null && reads.size > 0) fail(`reads ${repr([...reads.keys()].sort())} but has no model`);
    for (const [what, slot] of lookedAt(segment)) {
      if (!tensors.has(slot)) fail(`${what} is the slot ${repr(slot)}, which is not defined`);
    }
  }
}

/** An exit that stands in several segments is one exit. */
function checkTwins({ segments }: Manifest): void {
  const seen = new Map<string, string>();
  for (const [name, { exit }] of segments) {
    if (!exit) continue;
    const kind = JSON.stringify([exit.threshold, ...[...exit.outputs.keys()].sort()]);
    if ((seen.get(exit.name) ?? kind) !== kind) {
      failing(name)(`exit ${repr(exit.name)} stands elsewhere with another threshold or outputs`);
    }
    seen.set(exit.name, kind);
  }
}

/** File names are plain and distinct, and what segments name is listed. */
function checkFiles({ files, segments, golden, profile }: Manifest): void {
  const seen = new Map([[folded(MANIFEST), MANIFEST]]);
  for (const name of files.keys()) {
    if (!isPlain(name)) refuse(`${repr(name)} is not a plain file name inside the bundle`);
    if (new TextEncoder().encode(name).length > LONGEST_NAME_BYTES) {
      refuse(`the file name ${repr(first(name, 20))}… has over ${LONGEST_NAME_BYTES} bytes`);
    }
    const other = seen.get(folded(name));
    if (other !== undefined) refuse(`${repr(other)} and ${repr(name)} are one file on a case-insensitive disk`);
    seen.set(folded(name), name);
  }
  for (const [name, { model, weights }] of segments) {
    for (const file of [model, ...weights]) {
      if (file !== null && !files.has(file)) failing(name)(`the file ${repr(file)} is not listed under files`);
    }
  }
  for (const [what, file] of [["golden", golden?.file], ["profile", profile?.file]] as const) {
    if (file != null && !files.has(file)) refuse(`the ${what} file ${repr(file)} is not listed under files`);
  }
}

function checkTypes(plan: Manifest): void {
  const slots = new Map<string, Slot>([...plan.inputs.map((spec) => [spec.name, spec] as const), ...plan.slots]);
  const slotOf = (name: string): Slot => slots.get(name) as Slot; // `checkSegments` has found it
  for (const [name, slot] of slots) {
    const elements = slot.shape.reduce<number>((product, dim) => product * (typeof dim === "number" ? dim : 1), 1);
    if (elements > MOST_ELEMENTS) refuse(`${repr(name)} is ${spell(slot)}, over ${MOST_ELEMENTS} elements`);
  }
  for (const [name, segment] of plan.segments) {
    const fail = failing(name);
    const { writes, exit, next } = segment;
    checkTwinSlots(segment, slotOf, fail);
    for (const [target, source] of writes) {
      if (source.kind === "output") continue;
      const from = source.kind === "slot" ? slotOf(source.name) : (plan.constants.get(source.name) as Slot);
      if (!fits(from, slotOf(target))) {
        fail(`${repr(target)} takes ${spell(from)}, it is ${spell(slotOf(target))}`);
      }
    }
    const checkPerRow = (what: string, on: string, ...dtypes: readonly DType[]): void => {
      const slot = slotOf(on);
      const [dim] = slot.shape;
      const one = slot.shape.length === 0 || (slot.shape.length === 1 && (dim === 1 || typeof dim === "string"));
      if (!dtypes.includes(slot.dtype) || !one) {
        fail(`${what}${repr(on)} is ${spell(slot)}, expected one ${dtypes.join(" or ")} per row`);
      }
    };
    if (exit) {
      checkPerRow("confidence ", exit.confidence, "float32");
      if (exit.outputs.size === 0) fail(`exit ${repr(exit.name)} has no outputs`);
      for (const [key, constant] of exit.criterion.constants) {
        if (!plan.constants.has(constant)) fail(`the ${key} ${repr(constant)} is not among the constants`);
      }
    }
    if (next.kind === "gate") checkPerRow("", next.on, "bool");
    if (next.kind === "switch") checkPerRow("", next.on, "int64", "int32");
  }
}

/** Slots that one output feeds hold one tensor. */
function checkTwinSlots({ writes }: Segment, slotOf: (name: string) => Slot, fail: (text: string) => never): void {
  const seen = new Map<string, string>();
  for (const [target, { kind, name }] of writes) {
    if (kind !== "output") continue;
    const other = seen.get(name) ?? target;
    seen.set(name, other);
    const [a, b] = [slotOf(other), slotOf(target)];
    if (!fits(a, b) || !fits(b, a)) {
      fail(`output ${repr(name)} feeds ${repr(other)}, ${spell(a)}, and ${repr(target)}, ${spell(b)}`);
    }
  }
}

function fits(source: Slot, target: Slot): boolean {
  if (source.dtype !== target.dtype || source.shape.length !== target.shape.length) return false;
  if (source.shape.includes(null) && !target.shape.includes(null)) return false; // what depends on data is not fixed
  return source.shape.every((dim, place) => {
    const other = target.shape[place];
    return dim === other || typeof dim !== "number" || typeof other !== "number";
  });
}

/** Returns dtype and shape for people. */
function spell({ dtype, shape }: Slot): string {
  return `${dtype}[${shape.map((dim) => dim ?? "?").join(", ")}]`;
}

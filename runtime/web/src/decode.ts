// Types of JSON values, put together from small ones, and how a value of one is read. Faults read as msgspec's.

import { Fault, type Json } from "./json.js";
import { mapValues } from "./plan.js";
import { repr } from "./printable.js";

interface Kinds {
  readonly bool: boolean;
  readonly int: bigint;
  readonly float: number;
  readonly str: string;
  readonly array: readonly Json[];
  readonly object: ReadonlyMap<string, Json>;
  readonly null: null;
}
type Kind = keyof Kinds;

/** What is made of a value of each kind of JSON that may stand there; an integer may stand for a float. */
export type Type<T> = { readonly [K in Kind]?: (value: Kinds[K]) => T };
/** What a type makes. */
export type Of<A> = A extends Type<infer T> ? T : never;

const KINDS: readonly Kind[] = ["bool", "int", "float", "str", "array", "object", "null"];
const KIND_OF: Readonly<Record<string, Kind>> = { boolean: "bool", bigint: "int", number: "float", string: "str" };
let place: string[] = []; // the steps to the value that is read now

/** Returns what a type makes of a value; throws a `Fault` with its place. */
export function decode<T>(type: Type<T>, json: Json): T {
  place = [];
  return read(type, json);
}

/** Throws a fault of the value that is read now. */
export function fail(fault: string): never {
  throw new Fault(place.length > 0 ? `${fault} - at \`$${place.join("")}\`` : fault);
}

function read<T>(type: Type<T>, json: Json): T {
  const kind = KIND_OF[typeof json] ?? (json === null ? "null" : Array.isArray(json) ? "array" : "object");
  const asFloat = kind === "float" || (kind === "int" && !type.int);
  if (asFloat && !Number.isFinite(Number(json))) fail("Number out of range");
  const make = type[asFloat ? "float" : kind] as ((value: Json) => T) | undefined;
  if (make) return make(asFloat ? Number(json) : json);
  const got = kind === "int" && Math.abs(Number(json)) >= 2 ** 64 ? "float" : kind; // as msgspec says
  return fail(`Expected \`${KINDS.filter((each) => type[each]).join(" | ")}\`, got \`${got}\``);
}

function within<T>(step: string, type: Type<T>, json: Json): T {
  place.push(step);
  const found = read(type, json);
  place.pop();
  return found;
}

export const bool: Type<boolean> = { bool: (value) => value };
export const integer: Type<bigint> = { int: (value) => value };
export const float: Type<number> = { float: (value) => value };
export const str: Type<string> = { str: (value) => value };

/** What is made of another type's value. */
export function made<A, T>(type: Type<A>, make: (value: A) => T): Type<T> {
  const kinds = Object.entries(type) as [Kind, (value: unknown) => A][];
  return Object.fromEntries(kinds.map(([kind, first]) => [kind, (value: unknown) => make(first(value))]));
}

/** The values of another type for which something holds; `fault` says what of those for which it does not. */
export function where<T>(type: Type<T>, holds: (value: T) => boolean, fault: (value: T) => string): Type<T> {
  return made(type, (value) => (holds(value) ? value : fail(fault(value))));
}

/** An integer from `least` to `most`. */
export function int(least: number, most: number): Type<number> {
  const atLeast = where(integer, (value) => value >= least, () => `Expected \`int\` >= ${least}`);
  return made(where(atLeast, (value) => value <= most, () => `Expected \`int\` <= ${most}`), Number);
}

/** One of some texts. */
export function oneOf<const V extends readonly string[]>(...values: V): Type<V[number]> {
  return where(str, (value) => values.includes(value), (value) => `Invalid enum value ${repr(value)}`);
}

/** A text that matches. */
export function matching(pattern: RegExp): Type<string> {
  return where(str, (value) => pattern.test(value), () => `Expected \`str\` matching regex '${pattern.source}'`);
}

/** That, or null. */
export function nullable<T>(type: Type<T>): Type<T | null> {
  return { ...type, null: () => null };
}

/** Values in order. */
export function array<T>(of: Type<T>): Type<readonly T[]> {
  return { array: (values) => values.map((value, index) => within(`[${index}]`, of, value)) };
}

/** Exactly so many values. */
export function tuple<T>(length: number, of: Type<T>): Type<readonly T[]> {
  return {
    array: (values) => {
      const found = read(array(of), values.slice(0, length));
      return values.length === length ? found : fail(`Expected \`array\` of length ${length}`);
    },
  };
}

/** Values by name. */
export function map<T>(of: Type<T>): Type<ReadonlyMap<string, T>> {
  return { object: (values) => mapValues(values, (value) => within("[...]", of, value)) };
}

type Required = Readonly<Record<string, Type<unknown>>>;
type Optional = Readonly<Record<string, readonly [Type<unknown>, unknown]>>;
type Struct<R extends Required, O extends Optional> = { readonly [K in keyof R]: Of<R[K]> } & {
  readonly [K in keyof O]: Of<O[K][0]>;
};

/** Keys that must be there, and keys that have a default; unless `open`, no others. */
export function object<R extends Required, O extends Optional>(
  required: R, optional: O, open = false,
): Type<Struct<R, O>> {
  const types = new Map<string, Type<unknown>>(Object.entries(required));
  for (const [key, [type]] of Object.entries(optional)) types.set(key, type);
  return {
    object: (values) => {
      const found = Object.fromEntries(Object.entries(optional).map(([key, [, value]]) => [key, value]));
      for (const [key, value] of values) {
        const type = types.get(key);
        if (type) found[key] = within(`.${key}`, type, value);
        else if (!open) fail(`Object contains unknown field \`${key}\``);
      }
      for (const key of Object.keys(required)) {
        if (!values.has(key)) fail(`Object missing required field \`${key}\``);
      }
      return found as Struct<R, O>;
    },
  };
}

/** One of several objects, by their key `kind`. */
export function byKind<T>(types: ReadonlyMap<Json, Type<T>>): Type<T> {
  return {
    object: (values) => {
      const kind = values.get("kind");
      if (kind === undefined) fail("Object missing required field `kind`");
      const type = types.get(kind);
      if (type) return read(type, values);
      place.push(".kind");
      return fail(typeof kind === "string" ? `Invalid value ${repr(kind)}` : "Expected `str`");
    },
  };
}

/** A type that is only known later, of objects. */
export function later<T>(type: () => Type<T>): Type<T> {
  return { object: (values) => read(type(), values) };
}

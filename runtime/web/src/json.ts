// JSON as the format wants it, which `JSON.parse` cannot tell: a key twice, 1.0 for an integer, integers beyond 2^53,
// keys that look like integers. It is read from bytes, one character each, so that the digest is of these very bytes.

import { repr } from "./printable.js";

/** A value: an object is a Map, an integer a bigint, any other number a number. */
export type Json =
  | null | boolean | bigint | number | string
  | readonly Json[]
  | ReadonlyMap<string, Json>;

/** A text that is no JSON, or holds other types than expected. */
export class Fault extends Error {}

/** A text that was read. */
export interface Document {
  readonly root: Json;
  /** The text without white space between tokens, one character for each byte. */
  readonly compact: string;
  /** What is wrong with its bytes, which is said once the digest was found right. */
  readonly encoding: string | null;
  /** What is wrong with its keys, which is said once the types were found right. */
  readonly twice: string | null;
}

const DEEPEST = 1000;
const MOST_DIGITS = 4300; // as Python, for which more are too slow
const SCALAR = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;

/** Returns what is in a JSON text; throws a `Fault` where it is none. */
export function parse(bytes: Uint8Array): Document {
  const text = characters(bytes);
  let at = 0;
  let from = 0; // where the part begins that is not yet in `compact`
  let compact = "";
  let encoding: string | null = null;
  let twice: string | null = null;

  function malformed(): never {
    throw new Fault(
      at < text.length ? `JSON is malformed: invalid character (byte ${at})` : "Input data was truncated",
    );
  }

  /** Returns the first character that is no white space. */
  function next(): string | undefined {
    const start = at;
    while (at < text.length && " \t\n\r".includes(text.charAt(at))) at++;
    if (at > start) {
      compact += text.slice(from, start);
      from = at;
    }
    return text[at];
  }

  function string(): string {
    const start = at + 1;
    let end = at;
    let slash: number;
    do {
      end = text.indexOf('"', end + 1);
      if (end < 0) {
        at = text.length;
        malformed();
      }
      for (slash = end; text[slash - 1] === "\\"; ) slash--;
    } while ((end - slash) % 2 === 1);
    let found = text.slice(start, end);
    try {
      if (/[\x80-\xff]/.test(found)) found = decoded(found);
    } catch {
      encoding = "Invalid UTF-8 encoded string";
    }
    try {
      if (/[\\\0-\x1f]/.test(found)) found = JSON.parse(`"${found}"`) as string;
    } catch {
      malformed();
    }
    if (/[\ud800-\udfff]/u.test(found)) malformed(); // half of a pair
    at = end + 1;
    return found;
  }

  function scalar(): Json {
    SCALAR.lastIndex = at;
    const found = SCALAR.exec(text)?.[0] ?? malformed();
    at += found.length;
    if (!/^-?\d+$/.test(found)) return JSON.parse(found) as boolean | number | null;
    return found.length > MOST_DIGITS ? Infinity : BigInt(found);
  }

  function value(depth: number): Json {
    const opened = next();
    if (opened === '"') return string();
    if (opened !== "[" && opened !== "{") return scalar();
    if (depth > DEEPEST) throw new Fault("maximum recursion depth exceeded while deserializing an object");
    at++;
    const array: Json[] = [];
    const object = new Map<string, Json>();
    const close = opened === "[" ? "]" : "}";
    let again: string | null = null;
    if (next() !== close) {
      for (;;) {
        if (close === "]") {
          array.push(value(depth + 1));
        } else {
          if (next() !== '"') malformed();
          const key = string();
          if (next() !== ":") malformed();
          at++;
          const inner = value(depth + 1);
          if (object.has(key)) again ??= key;
          object.set(key, inner);
        }
        if (next() === close) break;
        if (text[at] !== ",") malformed();
        at++;
      }
    }
    at++;
    if (again !== null) twice ??= `the key ${repr(again)} stands twice in one object`;
    return close === "]" ? array : object;
  }

  const root = value(1);
  if (next() !== undefined) malformed();
  return { root, compact: compact + text.slice(from), encoding, twice };
}

/** Returns bytes as characters. */
function characters(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
  return text;
}

/** Returns what characters mean that are the bytes of UTF-8. */
function decoded(text: string): string {
  return decodeURIComponent(text.replace(/[%\x80-\xff]/g, (byte) => `%${byte.charCodeAt(0).toString(16)}`));
}

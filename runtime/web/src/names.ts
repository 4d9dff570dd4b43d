// What a plan may call things, so that every language can keep them by name, and which files are one.

import { ManifestError } from "./errors.js";
import type { Manifest } from "./manifest-types.js";
import { exitsOf } from "./plan.js";
import { repr, strip } from "./printable.js";

const NAME = /^(?!__)[A-Za-z_][A-Za-z0-9_.-]{0,254}$/;

/** Throws a `ManifestError` where a name breaks the rule, or titles give two things that users name one name. */
export function checkNames(plan: Manifest): void {
  const { outputs, slots, constants, segments, titles, split } = plan;
  const inputs = inputNames(plan);
  const exits = exitsOf(plan);
  const check = (what: string, names: Iterable<string>): void => {
    for (const name of names) {
      if (!NAME.test(name)) {
        refuse(
          `the ${what} ${repr(first(name, 40))} is no name: up to 255 of A-Z a-z 0-9 _ . -, first a letter or one _`,
        );
      }
      if (Object.hasOwn(Object.prototype, name)) {
        refuse(`the ${what} ${repr(name)} is a key of every JavaScript object`);
      }
    }
  };
  check("input", inputs);
  check("output", outputs.map(({ name }) => name));
  check("slot", slots.keys());
  check("constant", constants.keys());
  check("segment", segments.keys());
  check("exit", exits.keys());
  for (const { reads, writes, exit } of segments.values()) {
    check("graph input", reads.keys());
    for (const { kind, name } of writes.values()) if (kind === "output") check("graph output", [name]);
    check("output", exit?.outputs.keys() ?? []);
  }
  if (split) {
    check("server's model", [split.model]);
    check("server's input", split.sends.keys());
    check("server's exit", split.exits.map(({ name }) => name));
  }
  const users = new Set(inputs);
  for (const [name, exit] of exits) for (const user of [name, ...exit.outputs.keys()]) users.add(user);
  if (new Set(Array.from(users, (name) => titles.get(name) ?? name)).size !== users.size) {
    refuse("titles give two of the inputs, exits and outputs one name");
  }
}

/** Returns the names of a plan's inputs, in order. */
export function inputNames({ inputs }: Pick<Manifest, "inputs">): readonly string[] {
  return inputs.map(({ name }) => name);
}

/** Throws a `ManifestError` about the whole manifest. */
export function refuse(text: string): never {
  throw new ManifestError(`manifest.json: ${text}`);
}

/** Returns what throws a `ManifestError` about a segment. */
export function failing(segment: string): (text: string) => never {
  return (text) => {
    throw new ManifestError(`segment ${repr(segment)}: ${text}`);
  };
}

/** Returns the first characters of a text. */
export function first(text: string, count: number): string {
  return [...text.slice(0, 2 * count)].slice(0, count).join("");
}

/** Whether a name is that of a file inside the bundle's folder, and not the manifest's nor a writer's journal's. */
export function isPlain(name: string): boolean {
  return !/^$|^\.\.?$|^manifest\.json$|^\.writing\.json$|[/\\:\0]/.test(name) && name === strip(name);
}

/**
 * Returns what file names have in common that differ only in case: by Unicode's full case folding, of the version that
 * this engine knows. Lower and then upper case part letters as folding does; only the dotless i stays itself.
 */
export function folded(name: string): string {
  return name.split("ı").map((part) => part.toLowerCase().toUpperCase()).join("ı");
}

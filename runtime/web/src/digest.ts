// The digest inside a manifest, by which damage and edits are seen.

import { IntegrityError } from "./errors.js";
import { sha256 } from "./hash.js";

/** What to do where a manifest was changed. */
export const FIX =
  "copy or export the bundle again; if you have edited it, `eetoolkit verify BUNDLE --accept-edit` makes it the " +
  "bundle's own";
const SEAL = /,"digest":"([0-9a-f]{64})"\}$/;
const SEAL_LENGTH = 77;

/**
 * Compares a manifest's digest with that of its canonical form.
 *
 * @param compact The text, one JSON object, without white space between tokens, one character for each byte.
 * @throws IntegrityError It has none as its last member, or holds something else than when it was written.
 */
export async function checkDigest(compact: string, what: string): Promise<void> {
  const expected = SEAL.exec(compact.slice(-SEAL_LENGTH))?.[1];
  if (expected === undefined) throw new IntegrityError(`${what} does not end with its digest: ${FIX}`);
  const rest = `${compact.slice(0, -SEAL_LENGTH)}}`;
  const bytes = new Uint8Array(rest.length);
  for (let at = 0; at < rest.length; at++) bytes[at] = rest.charCodeAt(at);
  const found = await sha256(bytes);
  if (found !== expected) {
    throw new IntegrityError(
      `${what} was changed: its digest is ${expected.slice(0, 12)}…, its content's ${found.slice(0, 12)}…: ${FIX}`,
    );
  }
}

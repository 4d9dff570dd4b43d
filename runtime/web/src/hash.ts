// SHA-256, by WebCrypto where there is one: pages over plain http and React Native have none.

import { _SHA256 } from "@noble/hashes/sha2.js";

/**
 * Returns 64 hexadecimal digits.
 *
 * @param subtle What computes them; null: JavaScript.
 */
export async function sha256(
  bytes: Uint8Array,
  subtle: Pick<SubtleCrypto, "digest"> | null = globalThis.crypto?.subtle ?? null,
): Promise<string> {
  const digest = subtle
    ? new Uint8Array(await subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>))
    : new _SHA256().update(bytes).digest();
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

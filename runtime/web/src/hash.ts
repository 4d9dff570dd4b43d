// SHA-256, by WebCrypto where there is one: pages over plain http and React Native have none.

// The standard (FIPS 180-4) takes its constants from the first primes' roots: 32 bits behind the point.
const STATE = new Int32Array(8), ROUNDS = new Int32Array(64);
const fraction = (root: number): number => ((root % 1) * 2 ** 32) | 0;
for (let prime = 2, found = 0; found < 64; prime++) {
  if (Array.from({ length: prime - 2 }, (_, index) => prime % (index + 2)).includes(0)) continue;
  if (found < 8) STATE[found] = fraction(Math.sqrt(prime));
  ROUNDS[found++] = fraction(Math.cbrt(prime));
}

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
    ? new DataView(await subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>))
    : digestOf(bytes);
  return Array.from({ length: 8 }, (_, at) => digest.getUint32(4 * at).toString(16).padStart(8, "0")).join("");
}

const turned = (x: number, by: number): number => (x >>> by) | (x << (32 - by));

function digestOf(bytes: Uint8Array): DataView {
  const state = STATE.slice(), rest = bytes.length % 64, whole = bytes.length - rest;
  const tail = new Uint8Array(rest < 56 ? 64 : 128);
  tail.set(bytes.subarray(whole));
  tail[rest] = 128;
  const end = new DataView(tail.buffer);
  end.setUint32(tail.length - 8, bytes.length / 2 ** 29);
  end.setUint32(tail.length - 4, bytes.length * 8); // modulo 2^32
  const words = new Int32Array(64);
  for (const part of [bytes.subarray(0, whole), tail]) {
    const view = new DataView(part.buffer, part.byteOffset, part.length);
    for (let at = 0; at < part.length; at += 64) mix(state, words, view, at);
  }
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((word, at) => digest.setInt32(4 * at, word));
  return digest;
}

/** Mixes 64 bytes into the state; each sum is cut to 32 bits at once, which makes it twice as fast. */
function mix(state: Int32Array, words: Int32Array, view: DataView, start: number): void {
  const old = (at: number): number => state[at] as number;
  const word = (at: number): number => words[at] as number;
  for (let at = 0; at < 16; at++) words[at] = view.getInt32(start + 4 * at);
  for (let at = 16; at < 64; at++) {
    const x = word(at - 15), y = word(at - 2);
    const more = ((turned(x, 7) ^ turned(x, 18) ^ (x >>> 3)) + (turned(y, 17) ^ turned(y, 19) ^ (y >>> 10))) | 0;
    words[at] = (((word(at - 16) + word(at - 7)) | 0) + more) | 0;
  }
  let a = old(0), b = old(1), c = old(2), d = old(3), e = old(4), f = old(5), g = old(6), h = old(7);
  for (let at = 0; at < 64; at++) {
    const mixed = ((turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g))) | 0;
    const one = (((h + mixed) | 0) + (((ROUNDS[at] as number) + word(at)) | 0)) | 0;
    const two = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g, g = f, f = e, e = (d + one) | 0, d = c, c = b, b = a, a = (one + two) | 0;
  }
  state[0] = a + old(0), state[1] = b + old(1), state[2] = c + old(2), state[3] = d + old(3);
  state[4] = e + old(4), state[5] = f + old(5), state[6] = g + old(6), state[7] = h + old(7);
}

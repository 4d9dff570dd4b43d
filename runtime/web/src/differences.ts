// How far two arrays are apart.

/** An array and its shape. */
export interface Compared {
  readonly shape: readonly number[];
  readonly data: ArrayLike<number | bigint>;
}

/**
 * The largest absolute difference over the larger of 1 and the largest finite expected magnitude, in double precision;
 * infinity where shapes differ, or where one is NaN or infinite and the other is not the same.
 */
export function difference(found: Compared, expected: Compared): number {
  if (found.shape.join() !== expected.shape.join()) return Infinity;
  let furthest = 0, largest = 1;
  for (let index = 0; index < expected.data.length; index++) {
    const a = Number(found.data[index]), b = Number(expected.data[index]);
    if (!Number.isFinite(b) || !Number.isFinite(a)) {
      if (!Object.is(a, b)) return Infinity;
      continue;
    }
    furthest = Math.max(furthest, Math.abs(a - b));
    largest = Math.max(largest, Math.abs(b));
  }
  return furthest / largest;
}

// The clock: how coarse it is, and how something shorter is measured by it.

import { check } from "./queue.js";

/** Steps of the clock that a measurement is to take at least. */
export const LEAST_STEPS = 20;
const LOOK_MS = 5;
const MOST_TIMES = 1000;
const BREATH_MS = 40;

/** The smallest difference, in milliseconds, that two readings of the clock have had. */
export function timerStepMs(now = (): number => performance.now()): number {
  let least = Infinity;
  const start = now();
  for (let last = start; least === Infinity || last < start + LOOK_MS; ) {
    const reading = now();
    if (reading > last) least = Math.min(least, reading - last);
    last = reading;
  }
  return least;
}

/**
 * How often each thing is done in a row within one measurement, so that it takes some 20 steps of the clock: browsers
 * read it in steps of 5 us on an isolated page and of 100 us on any other. The time is then divided by how often.
 */
export interface Repeats {
  times(what: string): number;
  /** Learns what all of `times` took together; whether that was far too short to be believed. */
  short(what: string, ms: number): boolean;
}

/** Repeats for a clock of this step, in milliseconds. */
export function repeatsFor(stepMs: number): Repeats {
  const known = new Map<string, number>(), enough = LEAST_STEPS * stepMs;
  const times = (what: string): number => known.get(what) ?? 1;
  return {
    times,
    short(what, ms) {
      const before = times(what);
      if (ms >= enough || before === MOST_TIMES) return false;
      known.set(what, Math.min(MOST_TIMES, Math.ceil((before * enough) / Math.max(ms, stepMs))));
      return ms < enough / 2;
    },
  };
}

/** Gives way to the page's other work, where it has not had a turn for a while; throws what `signal` was aborted with. */
export function breather(signal: AbortSignal | undefined): () => Promise<void> {
  let last = performance.now();
  return async () => {
    if (performance.now() - last > BREATH_MS) {
      await new Promise((resolve) => setTimeout(resolve));
      last = performance.now();
    }
    check(signal);
  };
}

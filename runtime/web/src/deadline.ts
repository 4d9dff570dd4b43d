// What may stop a call before its end, looked at between segments: a deadline and a signal.

import { DeadlineError, InputError } from "./errors.js";
import type { RunOptions } from "./api.js";

const TRY_AFTER = 16;

/**
 * How long one segment takes: what the profile says, else the least time in which it has ended here. That may be wrong
 * by now, so the time that refused calls had left is added up: at 16 times what is expected, the segment is tried again.
 */
export interface Pace {
  readonly profiledMs: number;
  expectedMs: number;
  leftMs: number;
  /** How many of its runs were timed. */
  runs: number;
}

export const paceOf = (profiledMs = 0): Pace => ({ profiledMs, expectedMs: 0, leftMs: 0, runs: 0 });

/** Whether a call with so much time left may start the segment. */
export function fits(pace: Pace, leftMs: number): boolean {
  const expectedMs = Math.max(pace.profiledMs, pace.expectedMs);
  if (leftMs >= expectedMs || leftMs < pace.profiledMs) return leftMs >= expectedMs;
  pace.leftMs += leftMs;
  if (pace.leftMs < TRY_AFTER * expectedMs) return false;
  pace.leftMs = pace.expectedMs = 0;
  return true;
}

/** Learns from a run. */
export function ended(pace: Pace, tookMs: number): void {
  pace.runs += 1;
  pace.expectedMs = pace.expectedMs === 0 ? tookMs : Math.min(pace.expectedMs, tookMs);
}

export type StoppedBy = "deadline" | "interrupt";

/** Watches over one call. */
export interface Watch {
  readonly deadlineMs: number;
  readonly end: number;
  readonly signal: AbortSignal | undefined;
  /** Why no further segment may run; null while one may. */
  stoppedBy: StoppedBy | null;
}

/** The watch of a call that begins now; null where nothing may stop it. */
export function watchOf({ deadlineMs, signal }: Pick<RunOptions, "deadlineMs" | "signal">): Watch | null {
  if (deadlineMs === undefined && signal === undefined) return null;
  if (deadlineMs !== undefined && !(typeof deadlineMs === "number" && deadlineMs > 0)) {
    throw new InputError(`deadlineMs is ${String(deadlineMs)}, expected milliseconds, more than 0`);
  }
  const most = deadlineMs ?? Infinity;
  return { deadlineMs: most, end: performance.now() + most, signal, stoppedBy: null };
}

/** Whether a segment may start. */
export function allows(watch: Watch, pace: Pace): boolean {
  if (watch.signal?.aborted) watch.stoppedBy ??= "interrupt";
  else if (watch.end !== Infinity) {
    const leftMs = watch.end - performance.now();
    if (leftMs <= 0 || !fits(pace, leftMs)) watch.stoppedBy ??= "deadline";
  }
  return watch.stoppedBy === null;
}

/** Waits for what is not a segment's run, such as a download, but no longer than the call may last. */
export async function inTime(watch: Watch, work: Promise<unknown>): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let stop: (() => void) | undefined;
  const over = new Promise<StoppedBy>((resolve) => {
    stop = () => resolve("interrupt");
    watch.signal?.addEventListener("abort", stop);
    const leftMs = watch.end - performance.now();
    if (leftMs < 2 ** 31) timer = setTimeout(() => resolve("deadline"), Math.max(0, leftMs));
  });
  try {
    work.catch(() => undefined); // nobody may be left to hear
    watch.stoppedBy ??= await Promise.race([work.then(() => null), over]);
  } finally {
    clearTimeout(timer);
    if (stop !== undefined) watch.signal?.removeEventListener("abort", stop);
  }
  return watch.stoppedBy === null;
}

/** What is thrown where a call was stopped before there was an answer. */
export function tooLate(watch: Watch, path: readonly string[]): DeadlineError {
  const ran = path.length > 0 ? `ran ${path.join(", ")}` : "no segment was finished";
  return new DeadlineError(
    watch.stoppedBy === "interrupt"
      ? `interrupted before there was an answer; ${ran}`
      : `no answer within deadlineMs ${watch.deadlineMs}; ${ran}`,
  );
}

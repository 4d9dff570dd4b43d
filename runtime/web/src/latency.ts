// How long something took, summarised so that no run is left out (docs/bundle-format.md, "Profile").

import type { Latency } from "./profile.js";

/** Runs of one kind, as they come: what each took, and how many numbers its inputs were. */
export type Runs = { readonly ms: number; readonly size: number }[];

const FAR = 5; // spreads above the median from which a latency counts as an outlier
const ALIKE = 20; // runs, at least, that are judged together
const LEAST_MS = 1e-6; // what a run takes at least, however coarse the clock
const SHARES = [0, 1, 2, ...Array.from({ length: 19 }, (_, index) => 5 * (index + 1)), 98, 99, 100].map((each) => each / 100);

/** Adds a run. */
export const add = (runs: Runs, ms: number, size: number): unknown => runs.push({ ms: Math.max(ms, LEAST_MS), size });

/** The quantile of values in rising order, by linear interpolation. */
function at(sorted: readonly number[], share: number): number {
  const place = share * (sorted.length - 1), below = Math.floor(place);
  const low = sorted[below] as number;
  return low + (place - below) * ((sorted[below + 1] ?? low) - low);
}

const inOrder = (values: readonly number[]): number[] => [...values].sort((a, b) => a - b);
/** The sum. */
export const sum = (values: readonly number[]): number => values.reduce((total, each) => total + each, 0);
const spread = (sorted: readonly number[]): number => at(sorted, 0.75) - at(sorted, 0.25);
const fence = (sorted: readonly number[]): number => at(sorted, 0.5) + FAR * spread(sorted);

/** The median; of nothing NaN. */
export const median = (values: readonly number[]): number => (values.length > 0 ? at(inOrder(values), 0.5) : NaN);

/** The mean to which single disturbed runs add little: beyond the fence of inputs of like sizes they count as it. */
export function robustMean(runs: Runs): number {
  const order = [...runs].sort((a, b) => a.size - b.size);
  let total = 0, start = 0;
  for (let end = 1; end <= order.length; end++) {
    const left = order.length - end;
    if (left > 0 && (order[end]?.size === order[end - 1]?.size || Math.min(end - start, left) < ALIKE)) continue;
    const alike = inOrder(order.slice(start, end).map(({ ms }) => ms)), limit = fence(alike);
    total += sum(alike.map((ms) => Math.min(ms, limit)));
    start = end;
  }
  return total / order.length;
}

/** The summary of runs; null of none. */
export function summary(runs: Runs | undefined): Latency | null {
  if (runs === undefined) return null;
  const sorted = inOrder(runs.map(({ ms }) => ms)), limit = fence(sorted);
  return {
    runs: runs.length,
    mean_ms: sum(sorted) / runs.length,
    robust_ms: robustMean(runs),
    p50_ms: at(sorted, 0.5),
    p90_ms: at(sorted, 0.9),
    p99_ms: at(sorted, 0.99),
    spread_ms: spread(sorted) / 2,
    outliers: sorted.filter((ms) => ms > limit).length,
    quantiles_ms: SHARES.map((share) => at(sorted, share)),
  };
}

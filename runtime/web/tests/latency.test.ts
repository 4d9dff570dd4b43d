// Summaries of latencies, beside what Python's `summarise` gives for the same runs.

import { expect, test } from "vitest";
import { add, median, robustMean, summary, type Runs } from "../src/latency.js";
import type { Latency } from "../src/profile.js";

/** 90 runs of inputs of three sizes by a linear congruential generator; three runs are disturbed. */
function some(): Runs {
  const runs: Runs = [];
  let state = 1n;
  for (let index = 0; index < 90; index++) {
    state = (state * 1103515245n + 12345n) % 2n ** 31n;
    const ms = 1 + Number((state >> 8n) % 1000n) / 1000 + (index % 31 === 7 ? 40 : 0);
    add(runs, ms, [8, 8, 8, 12, 13][index % 5] as number);
  }
  return runs;
}

test("a summary is that of Python for the same runs", () => {
  const { quantiles_ms, ...found } = summary(some()) as Latency;
  const python = {
    runs: 90, mean_ms: 2.8191444444444445, robust_ms: 1.5667361111111113, p50_ms: 1.5375, p90_ms: 1.8796,
    p99_ms: 41.56832, spread_ms: 0.245, outliers: 3,
  };
  expect(Object.keys(found)).toEqual(Object.keys(python));
  for (const [key, value] of Object.entries(python)) expect(found[key as keyof typeof found]).toBeCloseTo(value, 10);
  const quantiles = [
    1.005, 1.00856, 1.01446, 1.04825, 1.081, 1.1644, 1.2256, 1.252, 1.2842, 1.3338, 1.404, 1.4304, 1.5375, 1.5843,
    1.6244, 1.66675, 1.7183, 1.742, 1.7686, 1.81725, 1.8796, 1.94875, 41.464, 41.5683, 41.668,
  ];
  expect(quantiles_ms.length).toBe(quantiles.length);
  quantiles.forEach((value, index) => expect(quantiles_ms[index]).toBeCloseTo(value, 4));
});

test("runs of few sizes are judged with their neighbours", () => {
  const runs = Array.from({ length: 30 }, (_, index) => ({ ms: index === 0 ? 90 : 1, size: index }));
  expect(robustMean(runs)).toBe(1);
});

test("nothing has no summary, and what took no step of the clock took something", () => {
  expect(summary(undefined)).toBeNull();
  expect(median([])).toBeNaN();
  const runs: Runs = [];
  add(runs, 0, 1);
  expect(summary(runs)?.mean_ms).toBe(1e-6);
});

// The clock's step, and how often something short is measured in a row.

import { expect, test, vi } from "vitest";
import { breather, repeatsFor, timerStepMs } from "../src/timer.js";

test("the step of a coarse clock is found, however long it stands still", () => {
  for (const step of [0.005, 0.1, 50]) {
    let readings = 0;
    expect(timerStepMs(() => Math.floor(readings++ / 37) * step)).toBeCloseTo(step, 9);
  }
});

test("what takes few steps is repeated until it takes twenty", () => {
  const repeats = repeatsFor(0.1);
  const eachMs = 0.012, measured = (): number => Math.floor(repeats.times("a") * eachMs * 10) / 10;
  const short = [1, 2, 3].map(() => repeats.short("a", measured()));
  expect(short).toEqual([true, true, false]);
  expect(measured()).toBeGreaterThanOrEqual(2);
  expect(measured()).toBeLessThan(3);
  expect(repeats.times("b")).toBe(1);
});

test("what takes no measurable time is given up at a thousand times", () => {
  const repeats = repeatsFor(100);
  for (let turn = 0; turn < 4; turn++) repeats.short("a", 0);
  expect(repeats.times("a")).toBe(1000);
  expect(repeats.short("a", 0)).toBe(false);
});

test("a long measurement gives way to the page, and stops where the caller stops it", async () => {
  const now = vi.spyOn(performance, "now");
  const stop = new AbortController();
  let turns = 0;
  setTimeout(() => (turns += 1));
  now.mockReturnValue(0);
  const breathe = breather(stop.signal);
  await breathe();
  expect(turns).toBe(0);
  now.mockReturnValue(1000);
  await breathe();
  expect(turns).toBe(1);
  now.mockRestore();
  stop.abort(new Error("enough"));
  await expect(breathe()).rejects.toThrow("enough");
});

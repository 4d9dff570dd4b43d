// A profile taken in Node: tests/test_web_profile.py gives one to Python.

import { fileURLToPath } from "node:url";
import * as ort from "onnxruntime-node";
import { describe, expect, test, vi } from "vitest";
import { backendOf } from "../src/device.js";
import { load, InputError, type Ort, type Profile, type ProfileOptions, type Progress } from "../src/index.js";

const CASES = fileURLToPath(new URL("../../conformance/cases/", import.meta.url));
const session = { intraOpNumThreads: 1, interOpNumThreads: 1 };

async function profiled(name: string, options: ProfileOptions): Promise<Profile> {
  const runner = await load(`${CASES}${name}/bundle`, { ort, session });
  try {
    return await runner.profile(options);
  } finally {
    await runner.close();
  }
}

const sum = (values: readonly number[]): number => values.reduce((total, each) => total + each, 0);

test("without a bound there are five rounds, and figures agree with each other", async () => {
  const found = await profiled("min_exit", { seconds: 0 });
  expect([found.version, found.rounds, found.rows, found.timed, found.threads]).toEqual([6, 5, 1, 1, 1]);
  expect(found.thresholds).toEqual({ exit0: "never", exit1: 0.4, exit2: "always" });
  expect(Object.values(found.segments).map(({ visits }) => visits)).toEqual([1, 1, 0]);
  expect(found.segments["segment2"]?.latency?.runs).toBe(5);
  const exits = Object.values(found.exits);
  expect(exits.map(({ share, latency, call }) => [share, latency?.runs, call?.runs])).toEqual([
    [0, 5, undefined], [1, 5, 5], [0, 5, undefined],
  ]);
  expect(sum(exits.map(({ expected_ms }) => expected_ms))).toBeCloseTo(found.expected.mean_ms, 9);
  const robust = Object.values(found.segments).map(({ latency }) => latency?.robust_ms ?? NaN);
  exits.forEach(({ segments_ms }, index) => expect(segments_ms).toBeCloseTo(sum(robust.slice(0, index + 1)), 9));
  expect(exits[1]?.called_ms).toBe(exits[1]?.segments_ms);
  expect(found.no_time_for).toEqual([]);
});

test("rows that are given are run instead of the golden ones", async () => {
  const inputs = [1, 2, 3].map((each) => new Float32Array(4).fill(each));
  const found = await profiled("loop", { seconds: 0, inputs });
  expect([found.rows, found.timed, found.exits["last"]?.share]).toEqual([3, 3, 1]);
  const { step, head } = found.segments;
  expect(Object.keys(found.segments)).toEqual(["step", "head"]);
  expect(step?.latency?.runs).toBeCloseTo((step?.visits ?? 0) * (head?.latency?.runs ?? 0), 9);
  expect(step?.visits).toBeGreaterThan(1);
});

test("where the most confident exit answers, calls are those of the exit that ended them", async () => {
  const { exits } = await profiled("most_confident", { seconds: 0, inputs: [[0.8, 0.5, 0.25, 0]] });
  const each = Object.entries(exits).map(([name, { share, call }]) => [name, share, call === null]);
  expect(sum(each.map(([, share]) => share as number))).toBe(1);
  expect(exits["exit1"]?.share).toBe(1);
  expect(each.filter(([, , none]) => none === false).map(([name]) => name)).toEqual(["exit3"]);
});

test("where there is hardly any time each thing is run once, and it says so", async () => {
  const found = await profiled("min_exit", { seconds: 1e-6 });
  expect(found.rounds).toBe(1);
  expect(found.no_time_for).toEqual(["warm-up", "rounds"]);
  expect(found.steady).toBe(false);
});

test("where the clock is coarse, several runs are measured together", async () => {
  const real = performance.now.bind(performance);
  const now = vi.spyOn(performance, "now").mockImplementation(() => Math.floor(real() * 10) / 10);
  try {
    const found = await profiled("min_exit", { seconds: 0 });
    expect(found.timer_step_us).toBe(100);
    const latencies = [found.expected, found.full_path, ...Object.values(found.segments).map(({ latency }) => latency)];
    for (const latency of latencies) {
      expect(latency?.p50_ms).toBeGreaterThan(1e-3); // a single run takes no step: 1e-6 would be told
      expect((latency?.p50_ms ?? 0) % 0.1).not.toBeCloseTo(0, 6);
    }
  } finally {
    now.mockRestore();
  }
});

test("it tells how far it is, and stops between runs where the caller stops it", async () => {
  const stop = new AbortController();
  const told: Progress[] = [];
  const progress = (each: Progress): void => {
    told.push(each);
    if (each.name === "measuring") stop.abort(new Error("enough"));
  };
  await expect(profiled("min_exit", { seconds: 60, progress, signal: stop.signal })).rejects.toThrow("enough");
  const phases = new Set(told.filter(({ what }) => what === "profile").map(({ name }) => name));
  expect([...phases]).toEqual(["inputs", "warming up", "measuring"]);
  expect(told.filter(({ what }) => what === "open").map(({ name }) => name)).toEqual(["segment0", "segment1", "segment2"]);
});

test("no inputs and times that are none are refused", async () => {
  await expect(profiled("min_exit", { inputs: [] })).rejects.toThrow(InputError);
  await expect(profiled("min_exit", { seconds: NaN })).rejects.toThrow("seconds is NaN, expected 0 to 86400");
  await expect(profiled("min_exit", { inputs: [[1, 2]] })).rejects.toThrow(InputError);
});

describe("what ran it is told so that no two backends are mixed", () => {
  const web = { ...ort, env: { versions: { common: "1.30.0", web: "1.30.0" }, wasm: { numThreads: 4 } } } as unknown as Ort;

  test("of the web, what computes and whether the page is isolated", () => {
    expect(backendOf(web)).toEqual({
      backend: "onnxruntime-web 1.30.0, wasm, not isolated", threads: 4, providers: ["CPUExecutionProvider"],
    });
    vi.stubGlobal("crossOriginIsolated", true);
    const found = backendOf(web, { executionProviders: ["webgpu", { name: "wasm" }] });
    vi.unstubAllGlobals();
    expect(found.backend).toBe("onnxruntime-web 1.30.0, webgpu, wasm, isolated");
    expect(found.providers).toEqual(["webgpu", "CPUExecutionProvider"]);
  });

  test("of Node, the threads that were asked for", () => {
    expect(backendOf(ort, session)).toMatchObject({ backend: `onnxruntime-node ${ort.env.versions.node}`, threads: 1 });
    expect(backendOf(ort, { executionProviders: ["cuda"] })).toMatchObject({
      threads: null, providers: ["cuda", "CPUExecutionProvider"],
    });
  });
});

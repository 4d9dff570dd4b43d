import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { DeadlineError, InputError, RunError, load, type Answer, type Runner } from "../src/index.js";
import { readTensors } from "../src/tensorfile.js";
import { CASES, ONE_THREAD, bundleOf, change, filesOf, ort, put, wrapped } from "./cases.js";

const options = { ort, session: ONE_THREAD };
const X = [0.1, 0.2, 0.3, 0.4];

/** The bundle of a case while `use` runs. */
async function using<T>(name: string, use: (runner: Runner) => Promise<T>, given: Partial<typeof options> = {}): Promise<T> {
  const runner = await load(bundleOf(name), { ...options, ...given });
  try {
    return await use(runner);
  } finally {
    await runner.close();
  }
}

/** The row of a case that runs to the end of `chain`. */
function rowToTheEnd(): Float32Array {
  const [tensors] = readTensors(readFileSync(join(CASES, "chain", "tensors.safetensors")));
  return tensors.get("9")?.data as Float32Array;
}

const spoken = (answers: readonly Answer[]): unknown[] =>
  answers.map(({ exit, path, stoppedBy, outputs }) => [exit, path, stoppedBy, String(outputs.get("logits")?.data)]);

describe("an answer", () => {
  test("is that of an exit which is asked for, by its name or its title", async () => {
    const files = filesOf("chain");
    change(files, (manifest) => Object.assign(manifest, { titles: { exit1: "the middle exit", x: "画像" } }));
    const runner = await load(files, options);
    for (const exitAt of ["exit1", "the middle exit"]) {
      expect((await runner.run({ 画像: X }, { exitAt })).exit).toBe("exit1");
      expect((await runner.run(new Map([["x", X]]), { exitAt })).exit).toBe("exit1");
    }
    const thresholds = { "the middle exit": -1, exit0: "never" } as const;
    expect((await runner.run(X, { thresholds })).exit).toBe("exit1");
    expect((await runner.run(X, { thresholds: new Map(Object.entries(thresholds)) })).exit).toBe("exit1");
  });

  test("is refused for exits and thresholds that are none", async () => {
    await using("chain", async (runner) => {
      const refusals = [
        [{ exitAt: "exit7" }, "no exit 'exit7'; the exits are exit0, exit1, exit2"],
        [{ thresholds: { exit7: 1 } }, "no exit 'exit7'; the exits are exit0, exit1, exit2"],
        [{ thresholds: { exit2: 1 } }, "thresholds: 'exit2' ends the plan and accepts everything; it has no threshold"],
        [{ thresholds: { exit0: NaN } }, "thresholds: 'exit0' is NaN, expected a number, or 'never'"],
        [{ deadlineMs: 0 }, "deadlineMs is 0, expected milliseconds, more than 0"],
      ] as const;
      for (const [given, text] of refusals) await expect(runner.run(X, given)).rejects.toThrow(new InputError(text));
    });
  });

  test("is the caller's to keep: nothing else reads or writes its tensors", async () => {
    const fill = ({ outputs }: Answer): void => outputs.forEach(({ data }) => new Uint8Array((data as Float32Array).buffer).fill(1));
    for (const name of ["chain", "constants", "only_moves", "two_slots"]) {
      await using(name, async (runner) => {
        const { inputs } = runner.plan;
        const row = new Map(inputs.map(({ name: input, dtype, shape }) => {
          const sizes = shape.map((dim) => (typeof dim === "number" ? dim : 1));
          const data = dtype === "float32" ? new Float32Array(sizes.reduce((a, b) => a * b, 1)).fill(0.5) : [1];
          return [input, data] as const;
        }));
        const before = spoken(await runner.runAllExits(row));
        const found: unknown[] = [];
        for await (const answer of runner.refine(row)) {
          found.push(...spoken([answer]));
          fill(answer);
        }
        for (const answer of await runner.runAllExits(row)) fill(answer);
        fill(await runner.run(row));
        expect(spoken(await runner.runAllExits(row))).toEqual(before);
        expect(before).toEqual(expect.arrayContaining(found));
      });
    }
  });

  test("does not change when the caller writes to its input meanwhile", async () => {
    await using("chain", async (runner) => {
      const row = rowToTheEnd(), due = spoken([await runner.run(row)]);
      const mine = new ort.Tensor("float32", row.slice(), [1, 4]), running = runner.run(mine);
      (mine.data as Float32Array).fill(9);
      expect(spoken([await running])).toEqual(due);
    });
  });
});

describe("refine", () => {
  test("yields the answers of all exits, and ends as the plan does", async () => {
    await using("chain", async (runner) => {
      const found: Answer[] = [];
      for await (const answer of runner.refine(X)) found.push(answer);
      expect(spoken(found)).toEqual(spoken(await runner.runAllExits(X)));
      expect(found.map(({ stoppedBy }) => stoppedBy)).toEqual(["exit", "exit", "end"]);
    });
  });

  test("runs no further than it is asked, and can be left", async () => {
    const ran: object[] = [];
    await using("chain", async (runner) => {
      for await (const { exit } of runner.refine(X)) if (exit === "exit1") break;
      expect(ran.length).toBe(2);
      const left = runner.refine(X);
      await left.next();
      await runner.close(); // does not wait for one who may never ask again
      await expect(left.next()).rejects.toThrow("this runner is closed");
    }, { ort: wrapped((run, feeds) => (ran.push(feeds), run())) as typeof ort });
  });

  test("refuses wrong inputs at once", async () => {
    await using("chain", async (runner) => {
      expect(() => runner.refine([1, 2])).toThrow(InputError);
    });
  });
});

describe("a deadline", () => {
  const slow = (ms: number): typeof ort => wrapped(async (run) => {
    const end = performance.now() + ms;
    while (performance.now() < end) { /* as WASM does */ }
    return run();
  }) as typeof ort;

  test("is kept by the bundle's own times, with the best answer so far", async () => {
    const files = filesOf("chain");
    const expected_ms = { segment0: 0.001, segment1: 0.001, segment2: 1e6 };
    change(files, (manifest) => Object.assign(manifest, { profile: { expected_ms } }));
    const runner = await load(files, options);
    await runner.open();
    const answer = await runner.run(rowToTheEnd(), { deadlineMs: 60_000 });
    expect([answer.exit, answer.stoppedBy, answer.path]).toEqual(["exit1", "deadline", ["segment0", "segment1"]]);
    expect((await runner.run(rowToTheEnd(), { deadlineMs: 1e7 })).stoppedBy).toBe("end");
    const refined: Answer[] = [];
    for await (const each of runner.refine(X, { deadlineMs: 60_000 })) refined.push(each);
    expect(refined.map(({ stoppedBy }) => stoppedBy)).toEqual(["exit", "exit"]);
  });

  test("is kept by what segments took here, where the bundle does not say", async () => {
    await using("chain", async (runner) => {
      await runner.run(rowToTheEnd());
      const late = runner.run(rowToTheEnd(), { deadlineMs: 15 }); // less than a segment takes
      await expect(late).rejects.toThrow(new DeadlineError("no answer within deadlineMs 15; no segment was finished"));
    }, { ort: slow(20) });
  });

  test("does not wait for a download", async () => {
    await using("chain", async () => undefined);
    const files = filesOf("chain");
    const never = new Blob([]);
    never.slice = () => Object.assign(new Blob([]), { arrayBuffer: () => new Promise<ArrayBuffer>(() => undefined) });
    Object.defineProperty(never, "size", { value: files.get("segment1-27094a93.onnx")?.length });
    const source = new Map<string, Blob | Uint8Array>(files).set("segment1-27094a93.onnx", never);
    const runner = await load(source, options);
    const row = rowToTheEnd();
    const answer = await runner.run(row, { deadlineMs: 1500 });
    expect([answer.exit, answer.stoppedBy]).toEqual(["exit0", "deadline"]);
    const stop = new AbortController();
    const stopped = runner.run(row, { signal: stop.signal });
    setTimeout(() => stop.abort(), 20);
    expect((await stopped).stoppedBy).toBe("interrupt");
  });

  test("that is over before the first segment leaves no answer", async () => {
    await using("chain", async (runner) => {
      const interrupted = runner.run(X, { signal: AbortSignal.abort() });
      await expect(interrupted).rejects.toThrow(
        new DeadlineError("interrupted before there was an answer; no segment was finished"),
      );
      const reason = new Error("enough");
      await expect(runner.runAllExits(X, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
      await expect(runner.verify({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    });
  });
});

describe("calls at one time", () => {
  test("answer as they do one by one, and no two graphs run at once", async () => {
    let running = 0, most = 0;
    const watched = wrapped(async (run) => {
      most = Math.max(most, (running += 1));
      await Promise.resolve();
      try {
        return await run();
      } finally {
        running -= 1;
      }
    }) as typeof ort;
    const rows = Array.from({ length: 20 }, (_, index) => Float32Array.of(index / 7, -index / 3, 1 - index, index % 5));
    await using("chain", async (runner) => {
      const alone: Answer[] = [];
      for (const row of rows) alone.push(await runner.run(row));
      const together = await Promise.all(rows.map((row) => runner.run(row)));
      expect(spoken(together)).toEqual(spoken(alone));
      expect(new Set(alone.map(({ exit }) => exit)).size).toBeGreaterThan(1);
    }, { ort: watched });
    expect(most).toBe(1);
  });

  test("that fail in a graph fail alone, with the segment's name", async () => {
    let calls = 0;
    const failing = wrapped((run) => ((calls += 1) === 1 ? Promise.reject(new Error("no memory\nat all")) : run()));
    await using("chain", async (runner) => {
      const [first, second] = await Promise.allSettled([runner.run(X), runner.run(X)]);
      expect(first?.status === "rejected" && first.reason).toEqual(new RunError("segment 'segment0': no memory"));
      expect(second?.status).toBe("fulfilled");
    }, { ort: failing as typeof ort });
  });
});

test("only the outputs that slots take are asked for", async () => {
  const asked: unknown[] = [];
  const create = ort.InferenceSession.create.bind(ort.InferenceSession) as (...given: unknown[]) => Promise<object>;
  const counted = { ...ort, InferenceSession: { create: async (...given: unknown[]) => {
    const session = await create(...given) as { run: (...args: unknown[]) => Promise<object>; outputNames: string[] };
    const { run } = session;
    session.run = async (...args) => {
      const made = await run.apply(session, args);
      asked.push([Object.keys(made), session.outputNames]);
      return made;
    };
    return session;
  } } } as unknown as typeof ort;
  const files = filesOf("chain");
  change(files, (manifest) => {
    Object.assign(manifest.segments["segment2"]?.writes ?? {}, { confidence2: { slot: "confidence1" } });
  });
  const runner = await load(files, { ...options, ort: counted });
  await runner.run(rowToTheEnd());
  expect(asked).toEqual([
    [["h", "confidence"], ["h", "confidence"]], [["h", "confidence"], ["h", "confidence"]], [["h"], ["h", "confidence"]],
  ]);
});

describe("verify", () => {
  test("passes a sound bundle, and prints as `eetoolkit verify`", async () => {
    await using("criterion_max_prob", async (runner) => {
      const report = await runner.verify();
      expect(report.passed).toBe(true);
      expect(String(report).split("\n")).toEqual([
        expect.stringMatching(/^exit0: 1 sample, outputs differ by at most \d\.\de[+-]\d\d, confidence by \d\.\de[+-]\d\d$/),
        expect.stringMatching(/^exit1: /),
        expect.stringMatching(/^exit2: /),
        "verify passed, tolerance 1e-04",
      ]);
    });
  });

  test("says what a quantised bundle is compared with", async () => {
    await using("int8_static", async (runner) => {
      const lines = String(await runner.verify()).split("\n");
      expect(lines.at(-2)).toMatch(/^compared with golden samples of the quantised segments, made by onnxruntime \d+\.\d+/);
      expect(lines.at(-1)).toMatch(/^verify passed/);
    });
  });

  test("finds an exit that answers otherwise, and confidences that are others", async () => {
    const files = filesOf("criterion_max_prob");
    const name = [...files.keys()].find((each) => each.endsWith(".safetensors")) as string;
    const golden = Uint8Array.from(files.get(name) as Uint8Array);
    const view = new DataView(golden.buffer);
    view.setFloat32(golden.length - 4, view.getFloat32(golden.length - 4, true) + 0.5, true); // the last confidence
    put(files, name, golden);
    const runner = await load(files, options), report = await runner.verify();
    expect(report.failures).toEqual([expect.stringMatching(/^sample 0: exit2: confidence off by \d\.\de-01, more than 1e-04$/)]);
    expect(String(report)).toContain("verify FAILED (1), tolerance 1e-04");
  });

  test("says where there are no samples", async () => {
    await using("chain", async (runner) => {
      await expect(runner.verify()).rejects.toThrow("verify: the bundle has no golden samples");
    });
  });
});

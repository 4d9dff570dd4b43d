// What goes wrong when callers leave, come back, wait for each other, or give what cannot be read.

import { expect, test } from "vitest";
import { BundleError, DeadlineError, InputError, IntegrityError, RunError, load } from "../src/index.js";
import type { Ort, RunOptions } from "../src/index.js";
import { ONE_THREAD, bundleOf, change, filesOf, ort, wrapped } from "./cases.js";

const options = { ort, session: ONE_THREAD };
const X = [0.1, 0.2, 0.3, 0.4];
const later = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** onnxruntime that counts its sessions; `creating` is awaited before each creation. */
function counting(creating: (count: number) => unknown = () => undefined): { ort: Ort; alive: () => number } {
  let made = 0, alive = 0;
  const create = async (...given: Parameters<Ort["InferenceSession"]["create"]>): Promise<unknown> => {
    await creating((made += 1));
    const session = await ort.InferenceSession.create(...given);
    alive += 1;
    return new Proxy(session, {
      get(target, key) {
        const value = Reflect.get(target, key, target) as unknown;
        if (key === "release") return () => ((alive -= 1), target.release());
        return typeof value === "function" ? (value.bind(target) as unknown) : value;
      },
    });
  };
  return { ort: { ...options.ort, InferenceSession: { create } } as unknown as Ort, alive: () => alive };
}

test("a session whose caller left while it was created is no second one", async () => {
  const leaving = new AbortController(), reason = new Error("left");
  let go = (): void => undefined;
  const gate = new Promise<void>((resolve) => (go = resolve));
  let begun = (): void => undefined;
  const creating = new Promise<void>((resolve) => (begun = resolve));
  const { ort: counted, alive } = counting((count) => (count === 1 ? (begun(), gate) : undefined));
  const runner = await load(bundleOf("chain"), { ...options, ort: counted });
  const opening = runner.open({ signal: leaving.signal });
  await creating;
  leaving.abort(reason);
  await expect(opening).rejects.toBe(reason);
  const running = runner.run(X, { exitAt: "exit0" });
  go();
  await running;
  expect(alive()).toBe(1);
  await runner.close();
  expect(alive()).toBe(0);
});

test("sessions of a bundle that could not be opened whole are released", async () => {
  const { ort: counted, alive } = counting((count) => {
    if (count === 2) throw new Error("no memory");
  });
  const loading = load(bundleOf("chain"), { ...options, ort: counted, open: "eager" });
  await expect(loading).rejects.toThrow("no memory");
  expect(alive()).toBe(0);
});

test("all who close a runner while it runs hear when it is closed", async () => {
  const runner = await load(bundleOf("chain"), options);
  const running = runner.run(X);
  const closing = Promise.all([runner.close(), runner.close()]);
  await running;
  const waited = Promise.race([closing.then(() => "closed"), new Promise((resolve) => setTimeout(resolve, 30_000))]);
  expect(await waited).toBe("closed");
  await expect(runner.golden()).rejects.toThrow(new RunError("this runner is closed; make a new one"));
});

test("a call that waits for another's segment answers within its own time", async () => {
  let go = (): void => undefined, runs = 0;
  const gate = new Promise<void>((resolve) => (go = resolve));
  const slow = wrapped(async (run) => {
    if ((runs += 1) === 1) await gate;
    return run();
  });
  const runner = await load(bundleOf("chain"), { ...options, ort: slow });
  await runner.open();
  const first = runner.run(X), stop = new AbortController();
  await later();
  const second = runner.run(X, { signal: stop.signal });
  await later();
  stop.abort();
  const said = await Promise.race([second.catch((error: unknown) => error), later().then(later)]);
  go();
  await Promise.allSettled([first, second]);
  expect(said).toBeInstanceOf(DeadlineError);
  await runner.close();
});

test("two outputs of one slot share no memory", async () => {
  const files = filesOf("chain");
  change(files, (manifest) => {
    for (const segment of Object.values(manifest.segments) as { exit?: { outputs: Record<string, string> } }[]) {
      if (segment.exit) Object.assign(segment.exit.outputs, { twin: Object.values(segment.exit.outputs)[0] });
    }
  });
  const runner = await load(files, options);
  const { outputs } = await runner.run(X);
  const [one, two] = [...outputs.values()].map(({ data }) => data as Float32Array);
  expect(two).toEqual(one);
  one?.fill(7);
  expect(two).not.toEqual(one);
  await runner.close();
});

test("what cannot be read is said as an error of the bundle", async () => {
  await expect(load("http://", options)).rejects.toThrow(new BundleError("http:// is not a bundle: Invalid URL"));
  const malformed = new BundleError("file:///%zz is not a bundle: URI malformed");
  await expect(load("file:///%zz", options)).rejects.toThrow(malformed);
  const changed = { size: 1, slice: () => ({ arrayBuffer: () => Promise.reject(new Error("it changed")) }) };
  const files = new Map([["manifest.json", changed as unknown as Blob]]);
  await expect(load(files, options)).rejects.toThrow(new IntegrityError("cannot read manifest.json: it changed"));
});

test("options that are none are refused, and do not change answers silently", async () => {
  const asked = "load: `ort` is not given; pass the module of onnxruntime";
  await expect(load(bundleOf("chain"), {} as typeof options)).rejects.toThrow(new InputError(asked));
  const fallback = "most-confident" as "last";
  const text = "load: fallback is most-confident, expected 'last' or 'most_confident'";
  await expect(load(bundleOf("chain"), { ...options, fallback })).rejects.toThrow(new InputError(text));
});

test("an option that is none is refused, and so is no bundle at all", async () => {
  const runner = await load(bundleOf("chain"), options);
  const mistyped = runner.run(X, { exitat: "exit0" } as RunOptions);
  await expect(mistyped).rejects.toThrow(
    new InputError("no option 'exitat'; there are exitAt, thresholds, deadlineMs, signal"),
  );
  const nothing = load(undefined as unknown as string, options);
  await expect(nothing).rejects.toThrow(new InputError("load: source is undefined, expected a bundle"));
  await runner.close();
});

import { copyFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";
import { BundleError, IntegrityError, RunError, load, type Progress } from "../src/index.js";
import { ONE_THREAD, bundleOf, change, copied, filesOf, ort, put, wrapped } from "./cases.js";

const options = { ort, session: ONE_THREAD };
const X = [0.1, 0.2, 0.3, 0.4];

/** Serves a case's bundle on a port of this machine while `use` runs. */
async function served<T>(handler: RequestListener, use: (url: string) => Promise<T>): Promise<T> {
  const server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    return await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

const serving = (files: Map<string, Uint8Array>, asked: string[] = []): RequestListener => (request, response) => {
  const name = decodeURIComponent(request.url?.split("/").at(-1)?.split("?")[0] ?? "");
  asked.push(name);
  const found = files.get(name);
  response.writeHead(found === undefined ? 404 : 200).end(found);
};

describe("a folder", () => {
  test("is loaded by its path and by its file URL", async () => {
    for (const source of [bundleOf("weights"), `${bundleOf("weights")}/`, pathToFileURL(bundleOf("weights"))]) {
      const runner = await load(source, options);
      expect((await runner.run(X)).exit).toMatch(/exit/);
      await runner.close();
    }
  });

  test("that is not there is no bundle", async () => {
    const loading = load("/nowhere/at/all", options);
    await expect(loading).rejects.toThrow(BundleError);
    await expect(loading).rejects.toThrow("/nowhere/at/all is not a bundle: it has no manifest.json");
  });

  test("with a missing, a linked, a longer or a changed file says so", async () => {
    await copied("chain", async (folder) => {
      const model = join(folder, "segment0-d0ca9814.onnx");
      rmSync(model);
      await expect(load(folder, options)).rejects.toThrow("segment0-d0ca9814.onnx is missing or not a regular file");
      symlinkSync(join(bundleOf("chain"), "segment0-d0ca9814.onnx"), model);
      await expect(load(folder, options)).rejects.toThrow(IntegrityError);
      rmSync(model);
      writeFileSync(model, new Uint8Array(243));
      await expect(load(folder, options)).rejects.toThrow("243 bytes, expected 242; copy or export the bundle again");
      writeFileSync(model, new Uint8Array(242));
      const runner = await load(folder, options);
      const running = runner.run(X);
      await expect(running).rejects.toThrow(IntegrityError);
      await expect(running).rejects.toThrow(/^segment 'segment0': .*: sha256 .*…, expected d0ca981410e8…: the file was/);
      copyFileSync(join(bundleOf("chain"), "segment0-d0ca9814.onnx"), model);
      expect((await runner.run(X)).path.length).toBeGreaterThan(0); // a failure is not kept
      await runner.close();
    });
  });
});

describe("files at hand", () => {
  test("are bytes, blobs, or the files of a drop", async () => {
    const files = filesOf("weights");
    const blobs = new Map([...files].map(([name, bytes]) => [name, new Blob([bytes as Uint8Array<ArrayBuffer>])]));
    const dropped = [...files].map(([name, bytes]) => new File([bytes as Uint8Array<ArrayBuffer>], name));
    for (const source of [files, blobs, dropped]) {
      const runner = await load(source, options);
      expect((await runner.run(X)).exit).toMatch(/exit/);
      await runner.close();
    }
  });

  test("with a graph that is none say which onnxruntime cannot load it", async () => {
    const files = filesOf("chain");
    put(files, "segment0-d0ca9814.onnx", new TextEncoder().encode("no graph"));
    const runner = await load(files, options);
    await expect(runner.run(X)).rejects.toThrow(/^segment 'segment0': onnxruntime [\d.]+ cannot load segment0-d0ca9814.onnx: /);
  });

  test("with a graph of other names say which", async () => {
    const files = filesOf("chain");
    change(files, (manifest) => {
      Object.assign(manifest.segments["segment0"] ?? {}, { reads: { y: "x" } });
    });
    const runner = await load(files, options);
    await expect(runner.run(X)).rejects.toThrow(
      "segment 'segment0': its graph's inputs are ['x'], the manifest names ['y']; export again",
    );
  });

  test("that need a newer onnxruntime say which is here", async () => {
    const files = filesOf("chain");
    change(files, (manifest) => Object.assign(manifest, { onnxruntime: "9.1" }));
    const found = `needs onnxruntime 9.1 or newer, ${ort.env.versions.common} is installed`;
    await expect(load(files, options)).rejects.toThrow(found);
  });
});

describe("a server", () => {
  test("is asked for a segment when a run first reaches it, and once for calls at one time", async () => {
    const asked: string[] = [];
    await served(serving(filesOf("chain"), asked), async (url) => {
      const runner = await load(`${url}/chain.ee?token=1`, options);
      expect(asked).toEqual(["manifest.json"]);
      await Promise.all([1, 2, 3].map(() => runner.run(X, { exitAt: "exit0" })));
      expect(asked).toEqual(["manifest.json", "segment0-d0ca9814.onnx"]);
      await runner.open();
      expect(asked.length).toBe(4);
      await runner.close();
    });
  });

  test("that has no bundle, or lacks a file, is told apart from one that fails", async () => {
    const files = filesOf("chain");
    files.delete("segment0-d0ca9814.onnx");
    await served(serving(files), async (url) => {
      await expect(load(`${url}/none/x`, { ort })).resolves.toBeTruthy();
      const runner = await load(url, options);
      await expect(runner.run(X)).rejects.toThrow("segment0-d0ca9814.onnx is missing or not a regular file");
    });
    await served(serving(new Map()), async (url) => {
      await expect(load(url, options)).rejects.toThrow(`${url} is not a bundle: it has no manifest.json`);
    });
    await served((_, response) => response.writeHead(503).end(), async (url) => {
      await expect(load(url, options)).rejects.toThrow("the server answered 503 Service Unavailable");
    });
    await expect(load("http://127.0.0.1:1/x", options)).rejects.toThrow(IntegrityError);
  });

  test("that sends more or less than the manifest says is refused, and can be asked again", async () => {
    const files = filesOf("chain"), model = files.get("segment0-d0ca9814.onnx") as Uint8Array;
    files.set("segment0-d0ca9814.onnx", new Uint8Array(1 << 20));
    await served(serving(files), async (url) => {
      const runner = await load(url, options);
      await expect(runner.run(X)).rejects.toThrow("more than 242 bytes, expected 242");
      files.set("segment0-d0ca9814.onnx", model.subarray(0, 100));
      await expect(runner.run(X)).rejects.toThrow("100 bytes, expected 242");
      files.set("segment0-d0ca9814.onnx", model);
      expect((await runner.run(X)).path[0]).toBe("segment0");
      await runner.close();
    });
  });

  test("reports progress in bytes and segments", async () => {
    const told: Progress[] = [];
    await served(serving(filesOf("weights")), async (url) => {
      const runner = await load(url, { ...options, open: "eager", progress: (progress) => told.push(progress) });
      await runner.close();
    });
    const last = (name: string): Progress | undefined => told.findLast((each) => each.name === name);
    for (const [name, bytes] of filesOf("weights")) {
      if (name === "manifest.json") continue;
      expect(last(name)).toEqual({ what: "fetch", name, done: bytes.length, total: bytes.length });
    }
    const opened = told.filter(({ what }) => what === "open");
    expect(opened.map(({ done }) => done)).toEqual(opened.map((_, index) => index + 1));
    expect(opened.every(({ total }) => total === opened.length)).toBe(true);
  });

  test("is left alone when the signal says so, with its reason", async () => {
    let closed = (): void => undefined;
    const gone = new Promise<void>((resolve) => (closed = resolve));
    const files = filesOf("chain"), reason = new Error("the page was left");
    const listener: RequestListener = (request, response) => {
      if (!request.url?.endsWith(".onnx")) return serving(files)(request, response);
      response.writeHead(200).write("x");
      response.on("close", closed);
      leaving.abort(reason);
    };
    const leaving = new AbortController();
    await served(listener, async (url) => {
      await expect(load(url, { ...options, open: "eager", signal: leaving.signal })).rejects.toBe(reason);
      await gone; // the connection too
      await expect(load(url, { ...options, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    });
  });
});

test("two bundles may call two different weights by one name", async () => {
  const one = filesOf("weights"), two = filesOf("weights");
  const name = [...two.keys()].find((each) => each.endsWith(".bin")) as string;
  const weights = Uint8Array.from(two.get(name) as Uint8Array);
  new Float32Array(weights.buffer).fill(0.25);
  put(two, name, weights);
  const text = async (files: Map<string, Uint8Array>): Promise<string> => {
    const runner = await load(files, options);
    const answers = await runner.runAllExits(X);
    await runner.close();
    return answers.map(({ outputs }) => [...outputs.values()].map(({ data }) => String(data)).join()).join(";");
  };
  const [first, second] = [await text(one), await text(two)];
  expect(first).not.toBe(second);
  expect(await Promise.all([text(one), text(two), text(one)])).toEqual([first, second, first]);
});

test("sessions are created one after the other, whatever the runners", async () => {
  let creating = 0, most = 0;
  const counted = wrapped((run) => run());
  const create = counted.InferenceSession.create.bind(counted.InferenceSession) as (...given: unknown[]) => Promise<never>;
  const slow = {
    ...counted,
    InferenceSession: {
      async create(...given: unknown[]) {
        most = Math.max(most, (creating += 1));
        await new Promise((resolve) => setImmediate(resolve));
        try {
          return await create(...given);
        } finally {
          creating -= 1;
        }
      },
    },
  } as unknown as typeof counted;
  const runners = await Promise.all(["chain", "weights", "gate"].map((name) => load(bundleOf(name), { ort: slow })));
  await Promise.all(runners.map((runner) => runner.open()));
  await Promise.all(runners.map((runner) => runner.close()));
  expect(most).toBe(1);
});

test("a closed runner says so", async () => {
  const runner = await load(bundleOf("chain"), options);
  const running = runner.run(X);
  await runner.close();
  expect((await running).path.length).toBeGreaterThan(0); // what had begun is not broken off
  await expect(runner.run(X)).rejects.toThrow(new RunError("this runner is closed; make a new one"));
  await expect(runner.open()).rejects.toThrow("this runner is closed");
  await expect(runner.verify()).rejects.toThrow("this runner is closed");
});

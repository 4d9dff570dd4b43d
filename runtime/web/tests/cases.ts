// The conformance cases as bundles for tests, and small changes of them.

import { createHash } from "node:crypto";
import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import * as ort from "onnxruntime-node";
import type { Ort } from "../src/index.js";

export { ort };
export const CASES = fileURLToPath(new URL("../../conformance/cases/", import.meta.url));
export const ONE_THREAD = { intraOpNumThreads: 1, interOpNumThreads: 1 } as const;

/** The folder of a case's bundle. */
export const bundleOf = (name: string): string => join(CASES, name, "bundle");

/** A case's files in memory. */
export function filesOf(name: string): Map<string, Uint8Array> {
  const folder = bundleOf(name);
  return new Map(readdirSync(folder).map((file) => [file, new Uint8Array(readFileSync(join(folder, file)))]));
}

/** A copy of a case's bundle in a folder of its own, gone when `use` has ended. */
export async function copied<T>(name: string, use: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "eetoolkit-web-"));
  try {
    cpSync(bundleOf(name), folder, { recursive: true });
    return await use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A manifest that is being changed. */
export interface Draft {
  [key: string]: unknown;
  readonly files: Record<string, object>;
  readonly segments: Record<string, { reads: object; writes: Record<string, object> }>;
}

/** Hexadecimal SHA-256. */
export const sha256Of = (bytes: Uint8Array | string): string => createHash("sha256").update(bytes).digest("hex");

/** Puts a file of these bytes in the place of a bundle's. */
export function put(files: Map<string, Uint8Array>, name: string, bytes: Uint8Array): void {
  files.set(name, bytes);
  change(files, (manifest) => {
    manifest.files[name] = { sha256: sha256Of(bytes), size: bytes.length };
  });
}

/** The manifest with a change, its digest renewed. */
export function changed(manifest: Uint8Array, change: (manifest: Draft) => void): Uint8Array {
  const value = JSON.parse(new TextDecoder().decode(manifest)) as Draft;
  change(value);
  delete value["digest"];
  const text = JSON.stringify(value);
  const digest = sha256Of(text);
  return new TextEncoder().encode(`${text.slice(0, -1)},"digest":"${digest}"}`);
}

/** Changes the manifest in a folder or among files. */
export function change(at: string | Map<string, Uint8Array>, how: (manifest: Draft) => void): void {
  if (typeof at === "string") {
    const path = join(at, "manifest.json");
    writeFileSync(path, changed(readFileSync(path), how));
  } else {
    at.set("manifest.json", changed(at.get("manifest.json") as Uint8Array, how));
  }
}

type Session = Awaited<ReturnType<typeof ort.InferenceSession.create>>;

/** onnxruntime with other sessions: `around` is given each run of a graph. */
export function wrapped(
  around: (run: () => Promise<unknown>, feeds: object, session: Session) => Promise<unknown>,
): Ort {
  return {
    Tensor: ort.Tensor,
    env: ort.env,
    InferenceSession: {
      async create(...given: Parameters<typeof ort.InferenceSession.create>) {
        const session = await ort.InferenceSession.create(...given);
        return new Proxy(session, {
          get(target, key) {
            const value = Reflect.get(target, key, target) as unknown;
            if (key === "run") {
              return (...args: Parameters<typeof session.run>) => around(() => target.run(...args), args[0], target);
            }
            return typeof value === "function" ? (value.bind(target) as unknown) : value;
          },
        });
      },
    } as Ort["InferenceSession"],
  };
}

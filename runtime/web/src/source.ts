// Where a bundle's files come from: a web server, a folder, or what is at hand.

import type { Files, LoadOptions } from "./api.js";
import { BundleError, IntegrityError, firstLine } from "./errors.js";
import { sha256 } from "./hash.js";
import { MANIFEST, MANIFEST_LIMIT_BYTES, type BundleFile } from "./plan.js";

/** How much of a file has been read, bytes. */
type Told = (done: number) => void;

/** A bundle's folder, wherever it is. */
export interface Folder {
  /** The folder, for messages. */
  readonly place: string;
  /** What a file is called in messages. */
  readonly nameOf: (name: string) => string;
  /** Reads at most `most` bytes of a file and one more; null: there is no such file. */
  readonly read: (name: string, most: number, told: Told, signal?: AbortSignal) => Promise<Uint8Array | null>;
  /** A file's size where it is known without reading it; null: there is no such file. */
  readonly sizeOf?: (name: string) => Promise<number | null>;
  /** Is told of a file that was read and is not the bundle's: a cache may hold it so. */
  readonly damaged?: (name: string) => void;
  /** Where files can only be loaded by their paths (React Native): a file's path. */
  readonly pathOf?: (name: string) => string;
}

const MISSING = "is missing or not a regular file; copy or export the bundle again";

/** The folder that `load` was given; a string is a URL, or a path in Node and React Native. */
export function folderOf(source: string | URL | Files, { readFile }: Pick<LoadOptions, "readFile">): Folder {
  if (typeof source !== "string" && !(source instanceof URL)) return fromFiles(source);
  const place = String(source), product = (globalThis.navigator as { product?: string } | undefined)?.product;
  if (readFile !== undefined || (product === "ReactNative" && !/^https?:/.test(place))) return byPath(place, readFile);
  const node = typeof process === "object" && typeof process.getBuiltinModule === "function";
  if (node && !/^https?:/.test(place)) return fromDisk(source);
  return fromWeb(place);
}

/** A file's bytes, which are those that the manifest says. */
export async function readChecked(
  folder: Folder, name: string, { size, sha256: expected }: BundleFile, told: Told, signal?: AbortSignal,
): Promise<Uint8Array> {
  const what = folder.nameOf(name), bytes = await folder.read(name, size, told, signal);
  if (bytes === null) throw new IntegrityError(`${what} ${MISSING}`);
  const found = bytes.length === size ? await sha256(bytes) : "";
  if (found === expected) return bytes;
  folder.damaged?.(name);
  checkSize(what, bytes.length > size ? `more than ${size}` : bytes.length, size);
  throw new IntegrityError(
    `${what}: sha256 ${found.slice(0, 12)}…, expected ${expected.slice(0, 12)}…: the file was changed; ` +
      "export the bundle again",
  );
}

/** Refuses a file that is missing or of another size, where that is known without reading it. */
export async function checkFile(folder: Folder, name: string, size: number): Promise<void> {
  const found = await folder.sizeOf?.(name);
  if (found === null) throw new IntegrityError(`${folder.nameOf(name)} ${MISSING}`);
  if (found !== undefined) checkSize(folder.nameOf(name), found, size);
}

function checkSize(what: string, found: number | string, expected: number): void {
  if (found === expected) return;
  throw new IntegrityError(`${what}: ${found} bytes, expected ${expected}; copy or export the bundle again`);
}

/** The manifest's bytes. */
export async function readManifestBytes(folder: Folder, told: Told, signal?: AbortSignal): Promise<Uint8Array> {
  const bytes = await folder.read(MANIFEST, MANIFEST_LIMIT_BYTES, told, signal);
  if (bytes === null) throw new BundleError(`${folder.place} is not a bundle: it has no ${MANIFEST}`);
  if (bytes.length <= MANIFEST_LIMIT_BYTES) return bytes;
  throw new IntegrityError(`${folder.nameOf(MANIFEST)} is over 8 MiB, more than such a file has`);
}

/** What was read in pieces, in one array that is not larger; stops behind `most` bytes. */
async function gather(pieces: AsyncIterable<Uint8Array>, most: number, told: Told): Promise<Uint8Array> {
  const found: Uint8Array[] = [];
  let done = 0;
  for await (const piece of pieces) {
    found.push(piece);
    told((done += piece.length));
    if (done > most) break;
  }
  const [first] = found;
  if (found.length === 1 && first !== undefined) return first;
  const bytes = new Uint8Array(done);
  done = 0;
  for (const piece of found) {
    bytes.set(piece, done);
    done += piece.length;
  }
  return bytes;
}

async function* piecesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  try {
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) yield piece.value;
  } finally {
    await reader.cancel().catch(() => undefined); // it may have failed already
  }
}

/** What `parse` makes of a URL; a `BundleError` where it is none. */
function parsed<T>(place: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new BundleError(`${place} is not a bundle: ${firstLine(error)}`, { cause: error });
  }
}

function fromWeb(place: string): Folder {
  const base = parsed(place, () => new URL(place, globalThis.location?.href));
  base.pathname = base.pathname.replace(/\/(manifest\.json)?$/, "") + "/";
  base.hash = "";
  const urlOf = (name: string): string => {
    const url = new URL(base);
    url.pathname += encodeURIComponent(name);
    return url.href;
  };
  const damaged = new Set<string>();
  return {
    place,
    nameOf: (name) => base.pathname + name,
    damaged: (name) => void damaged.add(name),
    async read(name, most, told, signal) {
      const cache = damaged.has(name) ? "reload" : name === MANIFEST ? "no-cache" : "default";
      const given = signal === undefined ? {} : { signal };
      try {
        const response = await fetch(urlOf(name), { cache, ...given });
        if (response.status === 404 || response.status === 410) return null;
        if (!response.ok) throw new Error(`the server answered ${response.status} ${response.statusText}`.trimEnd());
        const { body } = response;
        return body ? await gather(piecesOf(body), most, told) : new Uint8Array(await response.arrayBuffer());
      } catch (error) {
        if (signal?.aborted) throw error;
        throw new IntegrityError(`cannot read ${urlOf(name)}: ${firstLine(error)}`, { cause: error });
      }
    },
  };
}

function fromDisk(source: string | URL): Folder {
  // Not imported: what bundles for browsers or React Native would look for these modules, and fail.
  const files = process.getBuiltinModule("node:fs/promises"), { join } = process.getBuiltinModule("node:path");
  const place = String(source);
  const { fileURLToPath } = process.getBuiltinModule("node:url");
  const folder = place.startsWith("file:") ? parsed(place, () => fileURLToPath(place)) : place;
  const missing = (error: unknown): null => {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return null;
    throw new IntegrityError(`cannot read ${place}: ${firstLine(error)}`, { cause: error });
  };
  return {
    place,
    nameOf: (name) => join(folder, name),
    async read(name, most, told, signal) {
      const at = join(folder, name);
      try {
        if (!(await files.stat(at)).isFile()) return null; // a pipe would wait
        const handle = await files.open(at);
        const chunk = Math.min((await handle.stat()).size, most, 1 << 24) + 1; // one that is not full ends the file
        const range = { start: 0, end: most, highWaterMark: chunk };
        const stream = handle.createReadStream({ ...range, ...(signal && { signal }) });
        return await gather(stream as AsyncIterable<Uint8Array>, most, told);
      } catch (error) {
        if (signal?.aborted) throw error;
        return missing(error);
      }
    },
    async sizeOf(name) {
      const found = await files.lstat(join(folder, name)).catch(missing);
      return found?.isFile() ? found.size : null;
    },
  };
}

function fromFiles(source: Files): Folder {
  const named = (file: File): [string, File] => [file.name, file];
  const files = source instanceof Map ? source : new Map([...(source as Iterable<File>)].map(named));
  const place = "this set of files";
  return {
    place,
    nameOf: (name) => name,
    async read(name, most, told) {
      const file = files.get(name) as Blob | Uint8Array | undefined;
      if (file === undefined) return null;
      const whole = file instanceof Uint8Array ? file : file.slice(0, most + 1);
      try {
        const bytes = whole instanceof Uint8Array ? whole : new Uint8Array(await whole.arrayBuffer());
        told(bytes.length);
        return bytes;
      } catch (error) {
        throw new IntegrityError(`cannot read ${name}: ${firstLine(error)}`, { cause: error }); // it changed on the disk
      }
    },
    async sizeOf(name) {
      const file = files.get(name) as Blob | Uint8Array | undefined;
      return file === undefined ? null : file instanceof Uint8Array ? file.length : file.size;
    },
  };
}

/** A folder of which onnxruntime loads files by path; their bytes are read and checked as far as `readFile` can. */
function byPath(place: string, readFile: LoadOptions["readFile"]): Folder {
  const path = place.replace(/^file:\/\//, "").replace(/\/+$/, "");
  const read = readFile ?? (async (at: string) => {
    const response = await fetch(`file://${at}`);
    return new Uint8Array(await response.arrayBuffer());
  });
  return {
    place,
    nameOf: (name) => `${path}/${name}`,
    pathOf: (name) => `${path}/${name}`,
    async read(name, _most, told) {
      try {
        const bytes = await read(`${path}/${name}`);
        told(bytes.length);
        return bytes;
      } catch (error) {
        throw new IntegrityError(`cannot read ${path}/${name}: ${firstLine(error)}`, { cause: error });
      }
    },
  };
}

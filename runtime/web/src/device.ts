// What is known of the device and of the onnxruntime that runs here.

import type { InferenceSession } from "onnxruntime-common";
import type { Ort } from "./api.js";
import type { Machine } from "./profile.js";

type Hint = "architecture" | "bitness" | "model" | "platform";
interface UserAgentData {
  getHighEntropyValues?(hints: string[]): Promise<Partial<Record<Hint, string>>>;
}
/** What of a browser's `navigator` tells which device it is on. */
export interface Agent {
  readonly userAgentData?: UserAgentData;
  readonly userAgent?: string;
  readonly hardwareConcurrency?: number;
}
interface NodeOs {
  cpus(): { model: string }[];
  availableParallelism(): number;
  totalmem(): number;
  type(): string;
  release(): string;
  machine(): string;
}
interface Platform {
  readonly navigator?: Agent;
  readonly process?: { getBuiltinModule?(name: string): NodeOs };
  readonly crossOriginIsolated?: boolean;
}

const KINDS = ["node", "web", "react-native"] as const;
/** What a user agent may name, the more exact first; Macs call themselves Intel's on any processor. */
const SYSTEMS = ["Android", "iPhone", "iPad", "Windows", "CrOS", "Mac", "Linux"];
const here = globalThis as Platform;

/** The machine; `processor` where the caller has told it. */
export async function machineOf(ort: Ort, processor: string | undefined): Promise<Machine> {
  const { navigator, process } = here;
  const os = process?.getBuiltinModule?.("node:os");
  const { version } = libraryOf(ort);
  if (os !== undefined) {
    return {
      processor: processor ?? os.cpus()[0]?.model.trim() ?? "", cores: os.availableParallelism(),
      memory_bytes: os.totalmem(), system: `${os.type()} ${os.release()} ${os.machine()}`, onnxruntime: version,
    };
  }
  return {
    processor: processor ?? (await deviceOf(navigator ?? {})),
    cores: navigator?.hardwareConcurrency ?? 1, system: navigator?.userAgent ?? "", onnxruntime: version,
  };
}

/** A device's plain name: its model (`Pixel 8`), else its system and processor (`Linux, x86-64`) as far as told. */
export async function deviceOf({ userAgentData, userAgent = "" }: Agent): Promise<string> {
  const { model, platform, architecture, bitness } =
    (await userAgentData?.getHighEntropyValues?.(["model", "architecture", "bitness"]).catch(() => undefined)) ?? {};
  if (model) return model;
  if (platform && architecture) {
    return `${platform}, ${architecture}${architecture === "x86" ? "-" : ""}${bitness ?? ""}`;
  }
  const words = /\(([^)]*)\)/.exec(userAgent)?.[1] ?? "";
  const told = /Android [^;]*; ([^;]{2,}?)(?: Build\/.*)?$/.exec(words)?.[1]; // new Chromes call every model "K"
  if (told) return told;
  const system = SYSTEMS.find((each) => words.includes(each));
  if (system === undefined) return words || userAgent;
  const processor = /aarch64|arm64/i.test(words) ? "arm64" : /x86_64|x64/.test(words) ? "x86-64" : undefined;
  return [system, processor].filter(Boolean).join(", ");
}

function libraryOf({ env }: Ort): { name: string; version: string } {
  const versions = env.versions as Partial<Record<string, string>>;
  const kind = KINDS.find((each) => versions[each] !== undefined);
  return { name: `onnxruntime${kind === undefined ? "" : `-${kind}`}`, version: versions[kind ?? "common"] ?? "" };
}

/**
 * What ran the graphs, which must be equal where latencies are compared, and the sessions' settings. WASM is
 * onnxruntime's CPU provider, compiled for the web; any other provider has the name that it has in JavaScript.
 */
export function backendOf(
  ort: Ort, { executionProviders = [], intraOpNumThreads }: InferenceSession.SessionOptions = {},
): { backend: string; threads: number | null; providers: string[] } {
  const { name, version } = libraryOf(ort);
  const asked = executionProviders.map((each): string => (typeof each === "string" ? each : each.name));
  const parts = [`${name} ${version}`], isWeb = name.endsWith("web");
  if (isWeb) parts.push(...(asked.length > 0 ? asked : ["wasm"]), here.crossOriginIsolated ? "isolated" : "not isolated");
  const { wasm } = ort.env as { wasm?: { numThreads?: number } };
  return {
    backend: parts.join(", "),
    threads: (isWeb ? wasm?.numThreads : intraOpNumThreads) || null,
    providers: [...asked.filter((each) => !/^(cpu|wasm)$/.test(each)), "CPUExecutionProvider"],
  };
}

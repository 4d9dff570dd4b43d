// What is known of the device and of the onnxruntime that runs here.

import type { InferenceSession } from "onnxruntime-common";
import type { Ort } from "./api.js";
import type { Machine } from "./profile.js";

interface UserAgentData {
  getHighEntropyValues?(hints: string[]): Promise<{ readonly model?: string }>;
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
  readonly navigator?: { userAgentData?: UserAgentData; userAgent?: string; hardwareConcurrency?: number };
  readonly process?: { getBuiltinModule?(name: string): NodeOs };
  readonly crossOriginIsolated?: boolean;
}

const KINDS = ["node", "web", "react-native"] as const;
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
  const system = navigator?.userAgent ?? "";
  const told = await navigator?.userAgentData?.getHighEntropyValues?.(["model"]).catch(() => undefined);
  return {
    processor: processor ?? (told?.model || /\(([^)]*)\)/.exec(system)?.[1] || system),
    cores: navigator?.hardwareConcurrency ?? 1, system, onnxruntime: version,
  };
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

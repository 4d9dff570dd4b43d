// What the parts of the page share: the server's description, the bundle, and one long task at a time.

import type { Plan, Progress } from "eetoolkit-runtime";
import { h } from "./dom.js";
import type { Engine } from "./engine.js";
import type { Sample } from "./protocol.js";

export interface Bundle {
  readonly name: string;
  readonly path: string;
}

/** `serve.json`. */
export interface Site {
  readonly onnxruntime_web: string;
  readonly upload: boolean;
  readonly mode: "https" | "http" | "localhost" | "static";
  readonly bundles: readonly Bundle[];
}

/** A bundle on the page. */
export interface View {
  readonly site: Site;
  readonly number: number;
  readonly plan: Plan;
  readonly engine: Engine;
  readonly lock: Lock;
  /** Golden samples, read once. */
  readonly samples: () => Promise<readonly Sample[]>;
}

/** One long task at a time, since two would disturb each other's times; parts hear when it begins and ends. */
export interface Lock {
  readonly held: () => boolean;
  /** Does a task alone; whoever asks meanwhile is refused. */
  readonly alone: (task: () => Promise<void>) => Promise<void>;
  readonly heard: (listener: (held: boolean) => void) => void;
}

/** A lock that nobody holds. */
export function newLock(): Lock {
  const listeners: ((held: boolean) => void)[] = [];
  let held = false;
  const set = (value: boolean): void => {
    held = value;
    for (const listener of listeners) listener(value);
  };
  return {
    held: () => held,
    heard: (listener) => void listeners.push(listener),
    async alone(task) {
      if (held) return;
      set(true);
      try {
        await task();
      } finally {
        set(false);
      }
    },
  };
}

/** A bar with words, for something long, and the button that stops it. */
export interface Bar {
  readonly node: HTMLElement;
  readonly show: (text: string, share: number | null) => void;
}

/** A bar; `name` says to screen readers what it is of. */
export function newBar(name: string, stop?: HTMLElement): Bar {
  const bar = h("progress", { max: 1, "aria-label": name }), text = h("span", { class: "faint" });
  return {
    node: h("div", { class: "progress", "data-testid": "progress" }, bar, h("div", { class: "row" }, text, stop)),
    show(words, share) {
      if (text.textContent !== words) text.textContent = words;
      if (share === null) bar.removeAttribute("value");
      else bar.value = share;
    },
  };
}

const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** Words and a share for progress of files and segments, out of all that the bundle has. */
export function phases({ segments, files }: Plan): (progress: Progress) => [text: string, share: number | null] {
  const models = [...segments.values()].flatMap(({ model, weights }) => (model === null ? [] : [model, ...weights]));
  const total = [...new Set(models)].reduce((sum, name) => sum + (files.get(name)?.size ?? 0), 0);
  const read = new Map<string, number>();
  return ({ what, name, done, total: all }) => {
    if (what === "fetch") {
      if (models.includes(name)) read.set(name, done);
      const sum = [...read.values()].reduce((before, each) => before + each, 0);
      return [`Reading the bundle, ${mib(sum)} of ${mib(total)}`, total > 0 ? (0.7 * sum) / total : null];
    }
    if (what === "verify" && all !== null) {
      return [`Sample ${Math.min(done + 1, all)} of ${all}`, 0.7 + (0.3 * done) / all];
    }
    return ["Opening the segments", 0.7];
  };
}

/** Keeps the phone's screen on while a task runs, where the browser can. */
export async function awake<T>(task: () => Promise<T>): Promise<T> {
  const lock = await navigator.wakeLock?.request("screen").catch(() => undefined);
  try {
    return await task();
  } finally {
    await lock?.release().catch(() => undefined);
  }
}

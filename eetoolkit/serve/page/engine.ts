// The worker as the page sees it: calls with progress that can be stopped. One that was ended starts anew by itself.

import type { Progress } from "eetoolkit-runtime";
import type { Calls, Kind, Opened, Reply, Request } from "./protocol.js";

export interface Options {
  readonly signal?: AbortSignal;
  readonly progress?: (progress: Progress) => void;
}

export interface Engine {
  /** Asks for something, once the bundle is open. */
  call<K extends Exclude<Kind, "open">>(kind: K, ask: Calls[K]["ask"], options?: Options): Promise<Calls[K]["answer"]>;
  /** Opens the bundle, where it is not open. */
  open(): Promise<Opened>;
  /** Ends the worker; the next call starts another one, with so many threads. */
  restart(threads: number): void;
}

interface Waiting {
  readonly resolve: (answer: Calls[Kind]["answer"]) => void;
  readonly reject: (error: unknown) => void;
  readonly progress: ((progress: Progress) => void) | undefined;
}

/** What is done with a worker that does not stop when it is asked to. */
const PATIENCE_MS = 3000;

/** An error that crossed from the worker, with its name. */
export function faultOf(name: string, message: string): Error {
  const error = new Error(message);
  error.name = name;
  return error;
}

/** An error that says what this browser lacks. */
export const tooOld = (lack: string): Error =>
  faultOf("This browser is too old", `it lacks ${lack}. Chrome 91, Firefox 114 or Safari 16.4 will do, or newer.`);

/** The engine of a bundle, whose worker starts with the first call. */
export function engineOf(url: string, first: number): Engine {
  const waiting = new Map<number, Waiting>();
  let threads = first, worker: Worker | null = null, opened: Promise<Opened> | null = null, last = 0;

  function end(error: Error): void {
    worker?.terminate();
    worker = opened = null;
    for (const each of waiting.values()) each.reject(error);
    waiting.clear();
  }

  function start(): Worker {
    let modules = false;
    const options: WorkerOptions = {
      get type() { // looked at where workers may be modules
        modules = true;
        return "module" as const;
      },
    };
    const fresh = new Worker("worker.js", options);
    if (!modules) {
      fresh.terminate();
      throw tooOld("module workers");
    }
    fresh.onmessage = ({ data }: MessageEvent<Reply>) => {
      const found = waiting.get(data.id);
      if (data.kind === "progress") {
        found?.progress?.(data.progress);
        return;
      }
      waiting.delete(data.id);
      if (data.kind === "answer") found?.resolve(data.answer);
      else found?.reject(faultOf(data.fault.name, data.fault.message));
    };
    fresh.onerror = (event) => {
      event.preventDefault();
      end(faultOf("Error", event.message || "worker.js cannot be read; is the server still there?"));
    };
    return fresh;
  }

  function send<K extends Kind>(
    kind: K, ask: Calls[K]["ask"], { signal, progress }: Options,
  ): Promise<Calls[K]["answer"]> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const id = ++last, port = (worker ??= start());
      waiting.set(id, { resolve: resolve as Waiting["resolve"], reject, progress });
      port.postMessage({ kind, id, ...ask } as unknown as Request);
      signal?.addEventListener("abort", () => {
        port.postMessage({ kind: "abort", id } satisfies Request);
        setTimeout(() => waiting.has(id) && end(faultOf("AbortError", "stopped")), PATIENCE_MS);
      });
    });
  }

  function open(options: Options = {}): Promise<Opened> {
    const mine = (opened ??= send("open", { url, threads }, options));
    mine.catch(() => {
      if (opened === mine) opened = null; // the next call tries again
    });
    return mine;
  }

  return {
    open,
    async call(kind, ask, options = {}) {
      await open({ ...(options.progress && { progress: options.progress }) });
      return send(kind, ask, options);
    },
    restart(count) {
      threads = count;
      end(faultOf("AbortError", "stopped"));
    },
  };
}

// What must not overlap, and what is shared by those who ask for it at one time.

/**
 * Whose turn it is in this process or page. On the web, runs of any two sessions share one stack in WASM across their
 * awaits, and external data is mounted by name for all sessions at once, so only one may run or be created at a time.
 */
export const turn: { busy: Promise<void> | null } = { busy: null };
const nothing = (): void => undefined;

/** Begins a turn, when nobody else's is; what it returns ends it. */
export function occupy(): () => void {
  let free = nothing;
  turn.busy = new Promise((resolve) => {
    free = () => {
      turn.busy = null;
      resolve();
    };
  });
  return free;
}

/** Does `work` when it has its turn. */
export async function alone<T>(work: () => Promise<T>): Promise<T> {
  while (turn.busy !== null) await turn.busy;
  const free = occupy();
  try {
    return await work();
  } finally {
    free();
  }
}

/** What a signal was aborted with. */
export const reasonOf = (signal: AbortSignal): unknown => signal.reason ?? new Error("aborted");

/** Rejects with the signal's reason where it is aborted. */
export function check(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw reasonOf(signal);
}

/** What `work` gives, or the signal's reason as soon as it is aborted; `left` is told where the work is left alone. */
export function unless<T>(signal: AbortSignal | undefined, work: Promise<T>, left: () => void = nothing): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const leave = (): void => {
      left();
      reject(reasonOf(signal));
    };
    if (signal.aborted) leave();
    signal.addEventListener("abort", leave);
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", leave));
  });
}

interface Shared<T> {
  readonly work: Promise<T>;
  readonly stop: AbortController;
  waiting: number;
}
export type SharedWork<K, T> = Map<K, Shared<T>>;

/**
 * Joins the work of a key that is being done, or starts it. It is given a signal that is aborted when all who wait for
 * it have left by their own signals; when it has ended, well or not, the next one starts it anew.
 */
export function shared<K, T>(
  all: SharedWork<K, T>, key: K, start: (signal: AbortSignal) => Promise<T>, signal?: AbortSignal,
): Promise<T> {
  check(signal);
  let found = all.get(key);
  if (found === undefined) {
    const stop = new AbortController();
    const work = start(stop.signal).finally(() => {
      if (all.get(key)?.stop === stop) all.delete(key);
    });
    work.catch(nothing); // all may have left
    found = { work, stop, waiting: 0 };
    all.set(key, found);
  }
  const { work, stop } = found;
  found.waiting += 1;
  return unless(signal, work, () => {
    found.waiting -= 1;
    if (found.waiting > 0) return;
    all.delete(key);
    stop.abort(signal?.reason);
  });
}

// Opens a bundle.

import type { Files, LoadOptions, Progress, Runner } from "./api.js";
import { InputError } from "./errors.js";
import { readGolden } from "./golden.js";
import { readManifest } from "./manifest.js";
import { MANIFEST } from "./plan.js";
import { profile } from "./profiler.js";
import { compile } from "./program.js";
import { check, unless } from "./queue.js";
import { close, enter, leave, refine, run, runAllExits, stateOf, type State } from "./runner.js";
import { checkVersion, sessionsOf } from "./sessions.js";
import { checkFile, folderOf, readManifestBytes } from "./source.js";
import { verify } from "./verify.js";

type Told = { readonly progress?: (progress: Progress) => void; readonly signal?: AbortSignal };

/**
 * Opens a bundle: a URL or, in Node and React Native, the path of its folder, or its files. Its plan is proved, and
 * every file's size checked where it is known; each file is read, and its hash checked, when it is first needed.
 *
 * Throws a `BundleError` where it is no bundle that can be run here, an `InputError` for an option that is none, or
 * what `signal` was aborted with.
 */
export async function load(source: string | URL | Files, options: LoadOptions): Promise<Runner> {
  const state = await stateIn(source, options);
  if (options.open === "eager") {
    try {
      await open(state, options);
    } catch (error) {
      const closing = close(state).catch(() => undefined); // nobody else can
      if (!options.signal?.aborted) await closing;
      throw error;
    }
  }
  return {
    plan: state.program.plan,
    run: (inputs, given) => run(state, inputs, given),
    refine: (inputs, given) => refine(state, inputs, given),
    runAllExits: (inputs, given) => runAllExits(state, inputs, given),
    open: (given = {}) => open(state, given),
    close: () => close(state),
    verify: (given) => verify(state, given),
    profile: (given) => profile(state, given),
    golden: (given = {}) => golden(state, given),
  };
}

/** The state of a runner over the bundle in `source`. */
async function stateIn(source: string | URL | Files, options: LoadOptions): Promise<State> {
  const { ort, fallback, signal, progress } = options ?? {}; // JavaScript lets much through
  if (source === undefined || source === null) throw new InputError(`load: source is ${source}, expected a bundle`);
  if (ort?.InferenceSession === undefined) {
    throw new InputError("load: `ort` is not given; pass the module of onnxruntime");
  }
  if (fallback !== undefined && fallback !== "last" && fallback !== "most_confident") {
    throw new InputError(`load: fallback is ${String(fallback)}, expected 'last' or 'most_confident'`);
  }
  check(signal);
  const folder = folderOf(source, options);
  const told = (done: number): void => progress?.({ what: "fetch", name: MANIFEST, done, total: null });
  const text = await unless(signal, readManifestBytes(folder, told, signal));
  const plan = await readManifest(text, folder.nameOf(MANIFEST));
  checkVersion(plan, options.ort, folder.place);
  for (const [name, { size }] of plan.files) await checkFile(folder, name, size);
  check(signal);
  const program = compile(plan);
  return stateOf(program, sessionsOf(program, folder, options), folder, options);
}

async function golden(state: State, { signal }: Told): ReturnType<Runner["golden"]> {
  enter(state);
  try {
    return await readGolden(state.program.plan, state.options.ort, state.sessions, signal);
  } finally {
    leave(state);
  }
}

/** Opens all segments. */
async function open(state: State, { progress = state.options.progress, signal }: Told): Promise<void> {
  enter(state);
  try {
    const models = state.program.steps.filter(({ segment }) => segment.model !== null);
    for (const [done, { index, name }] of models.entries()) {
      await state.sessions.open(index, (each) => each.what === "fetch" && progress?.(each), signal);
      progress?.({ what: "open", name, done: done + 1, total: models.length });
    }
  } finally {
    leave(state);
  }
}

// What the package offers, as types. `load` gives a `Runner`.

import type { InferenceSession, Tensor, TypedTensor } from "onnxruntime-common";
import type { Plan } from "./plan.js";
import type { Profile } from "./profile.js";

/** The onnxruntime that the caller hands over: the module onnxruntime-web, -node or -react-native. */
export interface Ort {
  readonly InferenceSession: Pick<typeof InferenceSession, "create">;
  readonly Tensor: typeof Tensor;
  readonly env: { readonly versions: { readonly common: string } };
}

/** What is known of a step of something long: how much of `total` is done; `total` null: not known. */
export interface Progress {
  readonly what: "fetch" | "open" | "verify" | "profile";
  /** The file, segment or sample that it is about. */
  readonly name: string;
  readonly done: number;
  readonly total: number | null;
}

/** A bundle's files by name, where they are at hand: `File`s of a drop or an input, or bytes. */
export type Files = ReadonlyMap<string, Blob | Uint8Array> | Iterable<File>;

export interface LoadOptions {
  readonly ort: Ort;
  /** Passed on to every segment's session, such as `{ executionProviders: ["webgpu", "wasm"] }`. */
  readonly session?: InferenceSession.SessionOptions;
  /** Which exit answers where none fired; default: as the bundle says. */
  readonly fallback?: "last" | "most_confident";
  /** Whether segments are fetched and opened when a call first reaches them (`lazy`, the default) or all now. */
  readonly open?: "lazy" | "eager";
  /**
   * React Native: reads a file of the bundle's folder by its path, default there: `fetch` of `file://`. The manifest is
   * read so, golden samples, and graphs to check them; sessions are then created by path.
   */
  readonly readFile?: (path: string) => Promise<Uint8Array>;
  readonly progress?: (progress: Progress) => void;
  readonly signal?: AbortSignal;
}

/** An input: a tensor, or numbers in row-major order, which take the input's dtype, and its shape. */
export type Value = Tensor | ArrayBufferView | readonly number[];
/** One row: the only input's value, or every input's by name. */
export type Inputs = Value | ReadonlyMap<string, Value> | Readonly<Record<string, Value>>;

export interface RunOptions {
  /** Always answer at this exit, on its first visit; the last exit where the row does not meet it. */
  readonly exitAt?: string;
  /** Other thresholds than the bundle's for this call, by exit. */
  readonly thresholds?: ReadonlyMap<string, number | "never"> | Readonly<Record<string, number | "never">>;
  /** Milliseconds from the beginning of the call in which it must answer; looked at between segments. */
  readonly deadlineMs?: number;
  /** Stops the call between segments: the best answer so far, else a `DeadlineError`. */
  readonly signal?: AbortSignal;
}

export interface Answer {
  readonly exit: string;
  /** By name; each tensor has a leading dimension of 1, and is the caller's to keep. */
  readonly outputs: ReadonlyMap<string, TypedTensor<Tensor.Type>>;
  /** The exit's confidence, a float32; higher is surer. */
  readonly confidence: number;
  /** The segments that were run, in order. */
  readonly path: readonly string[];
  /** How many segments with a model the bundle has. */
  readonly segments: number;
  /** Decisions in order: 1 or 0 of a gate, the case of a switch. */
  readonly gates: readonly (readonly [segment: string, decision: number])[];
  readonly stoppedBy: "exit" | "end" | "deadline" | "interrupt";
  /** The predicted class, or null where the outputs say none. */
  readonly prediction: number | null;
}

/** What the source network gave for one row: at every exit that it meets on its way, none firing. */
export interface GoldenSample {
  readonly inputs: ReadonlyMap<string, TypedTensor<Tensor.Type>>;
  readonly visits: readonly {
    readonly exit: string;
    readonly outputs: ReadonlyMap<string, TypedTensor<Tensor.Type>>;
    readonly confidence: number;
    /** As in `Answer`. */
    readonly prediction: number | null;
  }[];
}

export interface ExitCheck {
  readonly exit: string;
  readonly samples: number;
  readonly outputDifference: number;
  readonly confidenceDifference: number;
  readonly ties: number;
}

/** Whether the bundle gives here what the source network gave; `failures` is empty where it does. */
export interface VerifyReport {
  readonly tolerance: number;
  readonly samples: number;
  readonly exits: readonly ExitCheck[];
  readonly failures: readonly string[];
  /** What expected values are of, where that is not simply the source network. */
  readonly comparedWith: string | null;
  readonly passed: boolean;
  /** The lines that `eetoolkit verify` prints. */
  toString(): string;
}

export interface ProfileOptions {
  /** Rows to run; default: the golden samples' inputs. */
  readonly inputs?: readonly Inputs[];
  /** How long it may take in all, seconds; default 10. */
  readonly seconds?: number;
  /** What ran the graphs, for people, such as "onnxruntime-web 1.30.0, wasm"; default: what `ort` tells. */
  readonly backend?: string;
  /** Of each operator; null: not known. */
  readonly threads?: number | null;
  /** The device, for people; default: what the platform tells. */
  readonly processor?: string;
  readonly providers?: readonly string[];
  readonly progress?: (progress: Progress) => void;
  readonly signal?: AbortSignal;
}

export interface Runner {
  readonly plan: Plan;
  run(inputs: Inputs, options?: RunOptions): Promise<Answer>;
  /** Yields answers as they get better, each as soon as its exit is reached. */
  refine(inputs: Inputs, options?: Pick<RunOptions, "deadlineMs" | "signal">): AsyncGenerator<Answer, void, undefined>;
  /** The answers of all exits that a row meets on its way to the end, none of them firing. */
  runAllExits(inputs: Inputs, options?: Pick<RunOptions, "signal">): Promise<Answer[]>;
  verify(options?: { progress?: (progress: Progress) => void; signal?: AbortSignal }): Promise<VerifyReport>;
  profile(options?: ProfileOptions): Promise<Profile>;
  /** The bundle's golden samples; none where it has none. */
  golden(options?: { signal?: AbortSignal }): Promise<readonly GoldenSample[]>;
  /** Fetches, checks and opens all segments now. */
  open(options?: { progress?: (progress: Progress) => void; signal?: AbortSignal }): Promise<void>;
  /** Releases all sessions; later calls are refused. */
  close(): Promise<void>;
}

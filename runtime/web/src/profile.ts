// What a bundle costs in this very browser or process, as types: docs/profile.schema.json has the keys.

import type { Threshold } from "./plan.js";

/** How long something took, in milliseconds. */
export interface Latency {
  readonly runs: number;
  readonly mean_ms: number;
  readonly robust_ms: number;
  readonly p50_ms: number;
  readonly p90_ms: number;
  readonly p99_ms: number;
  readonly spread_ms: number;
  readonly outliers: number;
  readonly quantiles_ms: readonly number[];
}

/** The device, for people; what is not known is left out. */
export interface Machine {
  readonly processor: string;
  readonly cores: number;
  readonly memory_bytes?: number;
  readonly system?: string;
  readonly onnxruntime?: string;
}

export interface SegmentCost {
  readonly nodes?: number;
  readonly parameters?: number;
  readonly multiply_adds?: number | null;
  readonly size_bytes: number;
  /** Opening it, once its files were there; the first one starts onnxruntime too. Null where it was open before. */
  readonly load_ms: number | null;
  readonly latency: Latency | null;
  readonly visits: number;
  readonly exit: string | null;
}

export interface ExitCost {
  readonly latency: Latency | null;
  readonly segments_ms: number | null;
  readonly call: Latency | null;
  readonly called_ms: number | null;
  readonly expected_ms: number;
  readonly share: number;
}

/** A profile, version 6, ready for `JSON.stringify` and `eetoolkit tune --profile`; keys as in docs/bundle-format.md. */
export interface Profile {
  readonly version: 6;
  readonly bundle: string;
  readonly files: Readonly<Record<string, string>>;
  readonly measured: string;
  readonly machine: Machine;
  readonly backend: string;
  readonly timer_step_us: number;
  readonly threads: number | null;
  readonly providers: readonly string[];
  readonly rows: number;
  readonly timed: number;
  readonly no_time_for: readonly string[];
  readonly rounds: number;
  readonly warmup_rounds: number;
  readonly steady: boolean;
  readonly thresholds: Readonly<Record<string, Threshold>>;
  readonly segments: Readonly<Record<string, SegmentCost>>;
  readonly exits: Readonly<Record<string, ExitCost>>;
  readonly expected: Latency;
  readonly full_path: Latency;
  readonly overhead_us: number;
}

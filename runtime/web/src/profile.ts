// What a bundle costs in this very browser or process: docs/profile.schema.json.

/** A profile, version 6, ready for `JSON.stringify` and `eetoolkit tune --profile`. */
export interface Profile {
  readonly version: 6;
  readonly bundle: string;
  readonly [key: string]: unknown;
}

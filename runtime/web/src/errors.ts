// The errors that users see, with Python's names and in Python's words.
//
// EEToolkitError
// ├── BundleError            a bundle that cannot be used
// │   ├── ManifestError      its plan is wrong
// │   └── IntegrityError     its files are missing, changed or cannot be loaded
// └── RunError               a run that failed
//     ├── InputError         an input that the network does not take
//     └── DeadlineError      no answer existed when time was up or the run was interrupted

import { flat } from "./printable.js";

/** Any error that this package raises on purpose; its message is one line that a page or terminal may show. */
export class EEToolkitError extends Error {
  override name = "EEToolkitError";

  constructor(message: string, options?: ErrorOptions) {
    super(flat(message), options); // a bundle's names are strangers' words
  }
}

/** A bundle that cannot be used. */
export class BundleError extends EEToolkitError {
  override name = "BundleError";
}

/** A manifest that is not a valid plan. */
export class ManifestError extends BundleError {
  override name = "ManifestError";
}

/** A file of a bundle that is missing, changed or cannot be loaded. */
export class IntegrityError extends BundleError {
  override name = "IntegrityError";
}

/** A run that failed. */
export class RunError extends EEToolkitError {
  override name = "RunError";
}

/** An input, exit, threshold or deadline that the bundle does not take. */
export class InputError extends RunError {
  override name = "InputError";
}

/** No answer existed when the time was up, or when the run was interrupted. */
export class DeadlineError extends RunError {
  override name = "DeadlineError";
}

/** What another library's error says, in one line and at most 300 characters. */
export function firstLine(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  const line = text.split("\n").map((each) => each.trim()).find((each) => each !== "") ?? "an error without words";
  return line.length <= 300 ? line : `${line.slice(0, 299)}…`;
}

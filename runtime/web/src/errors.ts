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
  static override readonly name: string = "EEToolkitError"; // told here, since minifying would change it

  constructor(message: string, options?: ErrorOptions) {
    super(flat(message), options); // a bundle's names are strangers' words
    this.name = new.target.name;
  }
}

/** A bundle that cannot be used. */
export class BundleError extends EEToolkitError {
  static override readonly name: string = "BundleError";
}

/** A manifest that is not a valid plan. */
export class ManifestError extends BundleError {
  static override readonly name: string = "ManifestError";
}

/** A file of a bundle that is missing, changed or cannot be loaded. */
export class IntegrityError extends BundleError {
  static override readonly name: string = "IntegrityError";
}

/** A run that failed. */
export class RunError extends EEToolkitError {
  static override readonly name: string = "RunError";
}

/** An input, exit, threshold or deadline that the bundle does not take. */
export class InputError extends RunError {
  static override readonly name: string = "InputError";
}

/** No answer existed when the time was up, or when the run was interrupted. */
export class DeadlineError extends RunError {
  static override readonly name: string = "DeadlineError";
}

/** What another library's error says, in one line and at most 300 characters. */
export function firstLine(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  const line = text.split("\n").map((each) => each.trim()).find((each) => each !== "") ?? "an error without words";
  return line.length <= 300 ? line : `${line.slice(0, 299)}…`;
}

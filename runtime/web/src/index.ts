// The package's public names.

export { load } from "./load.js";
export * from "./api.js";
export { BundleError, DeadlineError, EEToolkitError, InputError, IntegrityError, ManifestError, RunError } from "./errors.js";
export { exitsOf } from "./plan.js";
export type { Plan } from "./plan.js";
export type { Profile } from "./profile.js";

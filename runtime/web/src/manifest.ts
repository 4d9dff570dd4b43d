// `manifest.json` as text: read strictly into the plan's types, its digest compared, its plan proved.

import { array, decode, integer, nullable, object, str } from "./decode.js";
import { checkDigest, FIX } from "./digest.js";
import { IntegrityError, ManifestError } from "./errors.js";
import { Fault, parse, type Document, type Json } from "./json.js";
import { manifest, MANIFEST_KEYS, type Manifest } from "./manifest-types.js";
import { FORMAT, MANIFEST_LIMIT_BYTES, mapValues, VERSION, type Plan } from "./plan.js";
import { repr } from "./printable.js";
import { validate } from "./validate.js";

// The keys that say whether the rest can be read at all, and which of it may be left unread.
const HEAD = object(
  {}, { format: [nullable(str), null], version: [nullable(integer), null], optional: [array(str), []] }, true,
);

/**
 * Returns the plan in a manifest's text, proved.
 *
 * @param text JSON, in UTF-8 where it is bytes.
 * @param what Names it in errors.
 * @throws ManifestError It is no valid plan.
 * @throws IntegrityError It was changed since it was written, or is too large.
 */
export async function readManifest(text: string | Uint8Array, what: string): Promise<Plan> {
  const bytes = typeof text === "string" ? new TextEncoder().encode(text) : text;
  if (bytes.length > MANIFEST_LIMIT_BYTES) {
    throw new IntegrityError(`${what} is over ${MANIFEST_LIMIT_BYTES >> 20} MiB, more than such a file has`);
  }
  const document = said(() => readHead(bytes, what), (fault) => `${what}: damaged (${fault}); ${FIX}`);
  await checkDigest(document.compact, what);
  const found = said(() => readAll(document), (fault) => `manifest.json: ${fault}`);
  validate(found);
  return planOf(found);
}

/** Returns what is read; a fault becomes a `ManifestError`. */
function said<T>(read: () => T, spell: (fault: string) => string): T {
  try {
    return read();
  } catch (error) {
    // RangeError: what this engine's stack or regular expressions do not hold
    if (error instanceof Fault || error instanceof RangeError) throw new ManifestError(spell(error.message));
    throw error;
  }
}

function readHead(bytes: Uint8Array, what: string): Document & { readonly optional: readonly string[] } {
  const document = parse(bytes);
  const { format, version, optional } = decode(HEAD, document.root);
  if (format !== FORMAT) {
    throw new ManifestError(`${what}: "format" is ${repr(format)}, expected '${FORMAT}'`);
  }
  if (version !== BigInt(VERSION)) {
    const fix = version !== null && version < VERSION ? "export the network again" : "update eetoolkit";
    throw new ManifestError(`${what}: "version" is ${repr(version)}, this eetoolkit reads ${VERSION}; ${fix}`);
  }
  return { ...document, optional };
}

function readAll({ root, encoding, twice, optional }: ReturnType<typeof readHead>): Manifest {
  if (encoding !== null) throw new Fault(encoding);
  const values = new Map(root as ReadonlyMap<string, Json>);
  for (const key of ["digest", "optional", ...optional]) {
    if (MANIFEST_KEYS.has(key)) throw new Fault(`"optional" lists ${repr(key)}, which is not optional`);
    values.delete(key);
  }
  const found = decode(manifest, values);
  if (twice !== null) throw new Fault(twice);
  return found;
}

/** Returns what of a manifest a run needs. */
function planOf({
  format: _format, version: _version, created_with: _tools, outputs: _outputs, batch: _batch, tuning: _tuning, split: _split,
  profile, quantization, ...plan
}: Manifest): Plan {
  const constants = mapValues(plan.constants, (constant) => ({
    ...constant,
    data: constant.data.map((value) => (typeof value === "bigint" ? Number(value) : value)),
  }));
  const quantised = quantization === null
    ? null
    : { stale: quantization.stale, onnxruntime: String(quantization.created_with.get("onnxruntime") ?? "None") };
  return { ...plan, constants, expected_ms: profile?.expected_ms ?? new Map(), quantization: quantised };
}

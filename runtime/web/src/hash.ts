// Stand-in until the reading half is merged.
import { createHash } from "node:crypto";
export async function sha256(bytes: Uint8Array): Promise<string> {
  return createHash("sha256").update(bytes).digest("hex");
}

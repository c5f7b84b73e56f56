/**
 * SHA-256 of values that come in pieces.
 *
 * @module
 */

/** What of `node:crypto` is used. */
interface NodeHashes {
  createHash(name: "sha256"): {
    update(piece: Float32Array | Uint8Array): unknown;
    digest(encoding: "hex"): string;
  };
}

/** What runtimes with modules of Node.js have. */
interface NodeProcess {
  getBuiltinModule?(name: "node:crypto"): NodeHashes | undefined;
}

/** `node:crypto`; `null` in browsers, where asking for it by an import would be an error that the page's policy reports. */
function nodeHashes(): NodeHashes | null {
  const { process } = globalThis as { process?: NodeProcess };
  return process?.getBuiltinModule?.("node:crypto") ?? null;
}

/**
 * Hashes pieces one after the other. Without `node:crypto` all of them must be in memory together, as
 * `crypto.subtle` takes its input whole.
 *
 * @param pieces Each is done with when the next one is asked for.
 * @param hashes Where the hash comes from. @default {what the runtime has}
 * @returns 64 hexadecimal digits.
 */
export async function sha256(
  pieces: Iterable<Float32Array | Uint8Array>,
  hashes?: NodeHashes | null,
): Promise<string> {
  const node = hashes === undefined ? nodeHashes() : hashes;
  if (node === null) {
    const copies = Array.from(pieces, (p) => new Uint8Array(p.buffer, p.byteOffset, p.byteLength).slice());
    const whole = new Uint8Array(copies.reduce((sum, copy) => sum + copy.length, 0));
    let at = 0;
    for (const copy of copies) {
      whole.set(copy, at);
      at += copy.length;
    }
    return new Uint8Array(await crypto.subtle.digest("SHA-256", whole)).toHex();
  }
  const hash = node.createHash("sha256");
  for (const piece of pieces) hash.update(piece);
  return hash.digest("hex");
}

/**
 * Keys of devices: they prove that a device which comes back is the one that it says.
 *
 * @module
 */

/** A key of a device; its secret half never leaves the device. */
export interface DeviceKey {
  /** The public half, as the edge server gets it: Ed25519, 32 bytes in base64url. */
  readonly publicKey: string;
  /** The secret half, to be kept: PKCS #8 in base64url. */
  readonly secretKey: string;
}

const ALGORITHM = "Ed25519";
const URL_SAFE = { alphabet: "base64url", omitPadding: true } as const;
const READ = { alphabet: "base64url" } as const;

/** A new key for a device, see `UserDeviceOptions.key`. */
export async function newDeviceKey(): Promise<DeviceKey> {
  const made = await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  const { publicKey, privateKey } = made as CryptoKeyPair;
  const [open, secret] = await Promise.all([
    crypto.subtle.exportKey("raw", publicKey),
    crypto.subtle.exportKey("pkcs8", privateKey),
  ]);
  return {
    publicKey: new Uint8Array(open).toBase64(URL_SAFE),
    secretKey: new Uint8Array(secret).toBase64(URL_SAFE),
  };
}

/** What is signed: nothing that is signed for one purpose proves another. */
function statement(id: string, nonce: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`edgetuner device ${id} ${nonce}`);
}

/** A number that is used once: 32 random bytes. */
export function newNonce(): string {
  return crypto.getRandomValues(new Uint8Array(32)).toBase64(URL_SAFE);
}

/**
 * Proves that the device of an id has its key.
 *
 * @param key The key.
 * @param id The id.
 * @param nonce What the edge server asked with.
 * @throws {DOMException} If the key is not one.
 */
export async function proveDevice(key: DeviceKey, id: string, nonce: string): Promise<string> {
  const secret = Uint8Array.fromBase64(key.secretKey, READ);
  const own = await crypto.subtle.importKey("pkcs8", secret, ALGORITHM, false, ["sign"]);
  const signature = await crypto.subtle.sign(ALGORITHM, own, statement(id, nonce));
  return new Uint8Array(signature).toBase64(URL_SAFE);
}

/** True if a proof is of the key, the id and the nonce. */
export async function isProven(
  publicKey: string,
  { id, nonce, proof }: { readonly id: string; readonly nonce: string; readonly proof: string },
): Promise<boolean> {
  try {
    const open = Uint8Array.fromBase64(publicKey, READ);
    const key = await crypto.subtle.importKey("raw", open, ALGORITHM, false, ["verify"]);
    const signature = Uint8Array.fromBase64(proof, READ);
    return await crypto.subtle.verify(ALGORITHM, key, signature, statement(id, nonce));
  } catch {
    return false; // no key, or no signature
  }
}

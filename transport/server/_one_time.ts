/**
 * Secrets that are good once, for a while.
 *
 * @module
 */

/** What became of a secret that somebody shows. */
export type Shown<T> =
  | { readonly state: "good"; readonly value: T }
  | { readonly state: "unknown" | "used" | "expired" };

interface Kept<T> {
  readonly value: T;
  /** As `now` of the options. */
  readonly until: number;
  used: boolean;
}

/** Options of {@linkcode OneTimeSecrets}. */
export interface OneTimeOptions {
  /** Most secrets that are kept; the oldest goes first. */
  readonly most: number;
  /** The clock, in milliseconds. */
  readonly now: () => number;
}

/** A new secret of so many bytes, in base64url. */
export function newSecret(bytes: number): string {
  return crypto.getRandomValues(new Uint8Array(bytes)).toBase64({ alphabet: "base64url", omitPadding: true });
}

/** The digest of a secret: looking it up tells nothing of the secret by its duration. */
export async function digestOf(secret: string): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(secret))).toHex();
}

/** Secrets of 128 bits, of which only digests are kept. */
export class OneTimeSecrets<T> {
  readonly #options: OneTimeOptions;
  readonly #kept = new Map<string, Kept<T>>();

  /** See {@linkcode OneTimeOptions}. */
  constructor(options: OneTimeOptions) {
    this.#options = options;
  }

  /** Makes a secret for a value that is good for so many milliseconds. */
  async add(value: T, lifetimeMs: number): Promise<string> {
    const secret = newSecret(16);
    this.#kept.set(await digestOf(secret), { value, until: this.#options.now() + lifetimeMs, used: false });
    for (const [digest] of this.#kept) {
      if (this.#kept.size <= this.#options.most) break;
      this.#kept.delete(digest);
    }
    return secret;
  }

  /** What a secret is good for; it stays as it is. */
  async look(secret: string): Promise<Shown<T>> {
    return this.#look(await digestOf(secret));
  }

  /** What a secret is good for; it is used up. */
  async take(secret: string): Promise<Shown<T>> {
    const digest = await digestOf(secret);
    // Nothing waits from here on: of two that come at once one finds it used.
    const shown = this.#look(digest);
    if (shown.state === "good") this.#kept.get(digest)!.used = true;
    return shown;
  }

  #look(digest: string): Shown<T> {
    const kept = this.#kept.get(digest);
    if (kept === undefined) return { state: "unknown" };
    if (kept.used) return { state: "used" };
    return kept.until <= this.#options.now() ? { state: "expired" } : { state: "good", value: kept.value };
  }
}

/**
 * Browsers that are signed in.
 *
 * @module
 */

import { milliseconds } from "../_options.ts";
import { digestOf, newSecret, OneTimeSecrets } from "./_one_time.ts";

/** Options of {@linkcode Sessions}. */
export interface SessionsOptions {
  /** How long a browser stays signed in, in milliseconds. @default {43200000} */
  readonly lifetimeMs?: number;
  /** How long a link signs in that was made later, in milliseconds. @default {600000} */
  readonly linkLifetimeMs?: number;
  /** The clock, in milliseconds. @default {performance.now} */
  readonly now?: () => number;
}

/** Browsers that are signed in at once, at most: the oldest is signed out first. */
const MOST_SESSIONS = 64;
/** Name of the cookie, where browsers hold it to TLS and to this host alone, and without TLS. */
const COOKIE = { secure: "__Host-edgetuner", plain: "edgetuner" } as const;

/**
 * Signs browsers in, once for each link, and knows them by a cookie afterwards. Only digests of secrets are kept.
 *
 * @category Control
 */
export class Sessions {
  readonly #lifetimeMs: number;
  readonly #now: () => number;
  readonly #links: OneTimeSecrets<null>;
  /** When each session ends, by the digest of its secret. */
  readonly #sessions = new Map<string, number>();
  /** How long a link signs in that was made later, in milliseconds. */
  readonly linkLifetimeMs: number;

  /**
   * Without sessions at first.
   *
   * @param options Times.
   * @throws {RangeError} If a time is out of range.
   */
  constructor(options: SessionsOptions = {}) {
    this.#lifetimeMs = milliseconds("lifetimeMs", options.lifetimeMs, 43_200_000);
    this.linkLifetimeMs = milliseconds("linkLifetimeMs", options.linkLifetimeMs, 600_000);
    this.#now = options.now ?? (() => performance.now());
    this.#links = new OneTimeSecrets({ most: MOST_SESSIONS, now: this.#now });
  }

  /**
   * Makes a link: what stands behind the address of the server. The secret is in its fragment, which browsers send
   * nobody.
   *
   * @param lifetimeMs How long it signs in.
   */
  async link(lifetimeMs: number = this.linkLifetimeMs): Promise<string> {
    return `/#signin=${await this.#links.add(null, lifetimeMs)}`;
  }

  /**
   * Signs a browser in.
   *
   * @param secret The secret of a link.
   * @returns Secret of the session and seconds that it lasts; else why not.
   */
  async signIn(
    secret: string,
  ): Promise<{ readonly session: string; readonly secondsLeft: number } | "unknown" | "used" | "expired"> {
    const { state } = await this.#links.take(secret);
    if (state !== "good") return state;
    const session = newSecret(32);
    this.#sessions.set(await digestOf(session), this.#now() + this.#lifetimeMs);
    for (const [digest] of this.#sessions) {
      if (this.#sessions.size <= MOST_SESSIONS) break;
      this.#sessions.delete(digest);
    }
    return { session, secondsLeft: Math.floor(this.#lifetimeMs / 1000) };
  }

  /** Seconds that the session of a request lasts; `null` without one. */
  async secondsLeft(request: Request): Promise<number | null> {
    const digest = await this.#digestOf(request);
    const until = digest === null ? undefined : this.#sessions.get(digest);
    if (digest === null || until === undefined) return null;
    const left = until - this.#now();
    if (left > 0) return Math.floor(left / 1000);
    this.#sessions.delete(digest);
    return null;
  }

  /** Ends the session of a request. */
  async signOut(request: Request): Promise<void> {
    const digest = await this.#digestOf(request);
    if (digest !== null) this.#sessions.delete(digest);
  }

  /** The header that gives a browser its session, or takes it away where the session is empty. */
  cookie(session: string, { isTls }: { readonly isTls: boolean }): string {
    const name = isTls ? COOKIE.secure : COOKIE.plain;
    const age = session === "" ? 0 : Math.floor(this.#lifetimeMs / 1000);
    return `${name}=${session}; Path=/; Max-Age=${age}; HttpOnly; SameSite=Strict${isTls ? "; Secure" : ""}`;
  }

  async #digestOf(request: Request): Promise<string | null> {
    const cookies = (request.headers.get("cookie") ?? "").split(";").map((cookie) => cookie.trim());
    const found = [COOKIE.secure, COOKIE.plain].map((name) =>
      cookies.find((cookie) => cookie.startsWith(`${name}=`))?.slice(name.length + 1)
    ).find((value) => value !== undefined && value !== "");
    return found === undefined ? null : await digestOf(found);
  }
}

/**
 * From where a request may come: hosts, origins, and how many from an address.
 *
 * @module
 */

import { problemResponse } from "../problem.ts";

/** From where requests may come. */
export interface CallerOptions {
  /** Names of this server beside `localhost` and addresses. */
  readonly allowHosts: readonly string[];
  /** Origins of pages on other servers that may use this one. */
  readonly allowOrigins: readonly string[];
}

/** Methods that change nothing. */
const SAFE = ["GET", "HEAD", "OPTIONS"];

/**
 * True for a host that a page of somebody else cannot have as its own: this machine's, an address, or a name that
 * was allowed. A name that its owner points here later (DNS rebinding) is none of them.
 */
export function isOwnHost(host: string, allowed: readonly string[]): boolean {
  if (!/^(?:\[[\da-f:.]+\]|[\w.-]+)(?::\d+)?$/i.test(host)) return false;
  let name: string;
  try {
    name = new URL(`http://${host}`).hostname.replace(/\.$/, "");
  } catch {
    return false;
  }
  const isAddress = name.startsWith("[") || /^\d+\.\d+\.\d+\.\d+$/.test(name);
  return isAddress || name === "localhost" || name.endsWith(".localhost") ||
    allowed.some((one) => one.toLowerCase() === name);
}

/** The origin of a request's page: `own`, one that was allowed, `foreign`, or `null` where no page is said to send it. */
export function originOf(request: Request, allowed: readonly string[]): "own" | "allowed" | "foreign" | null {
  const origin = request.headers.get("origin");
  if (origin === null) return null;
  if (allowed.includes(origin)) return "allowed";
  const host = request.headers.get("host") ?? new URL(request.url).host;
  try {
    const { protocol, host: from } = new URL(origin);
    return from !== "" && from === new URL(`${protocol}//${host}`).host ? "own" : "foreign";
  } catch {
    return "foreign"; // such as "null"
  }
}

/** What keeps a request out that comes from where it may not; `null` if nothing does. */
export function refuseCaller(
  request: Request,
  { allowHosts, allowOrigins }: CallerOptions,
  { hasToken }: { readonly hasToken: boolean },
): Response | null {
  const host = request.headers.get("host");
  // A page that was rebound has no token: programs that have one may call the server by any name.
  if (host !== null && !hasToken && !isOwnHost(host, allowHosts)) {
    return problemResponse({
      status: 421,
      title: "Misdirected request",
      detail:
        `Cannot answer as the host must be localhost, an address, or one of --allow-host: it is ${host}`,
    });
  }
  const changes = !SAFE.includes(request.method) || request.headers.has("upgrade");
  if (changes && originOf(request, allowOrigins) === "foreign") {
    return problemResponse({
      status: 403,
      title: "Foreign origin",
      detail: `Cannot answer as the origin must be this server's or one of --allow-origin: it is ${
        request.headers.get("origin")
      }`,
    });
  }
  return null;
}

/** Headers that let a page of an allowed origin read an answer; none for others. */
export function corsHeaders(request: Request, allowed: readonly string[]): Record<string, string> {
  if (originOf(request, allowed) !== "allowed") return {};
  return {
    "access-control-allow-origin": request.headers.get("origin")!,
    "access-control-expose-headers": "*, retry-after",
    vary: "origin",
  };
}

/** The answer to a browser that asks before a page of an allowed origin may send a request; `null` for others. */
export function preflight(request: Request, allowed: readonly string[]): Response | null {
  const asked = request.headers.get("access-control-request-method");
  if (request.method !== "OPTIONS" || asked === null) return null;
  const headers = corsHeaders(request, allowed);
  if (headers["access-control-allow-origin"] === undefined) {
    return problemResponse({
      status: 403,
      title: "Foreign origin",
      detail: `Cannot answer as the origin must be one of --allow-origin: it is ${
        request.headers.get("origin")
      }`,
    });
  }
  return new Response(null, {
    status: 204,
    headers: {
      ...headers,
      "access-control-allow-methods": "GET, POST, DELETE",
      "access-control-allow-headers": request.headers.get("access-control-request-headers") ?? "",
      // From a page on the internet to this network: what some browsers ask for.
      ...(request.headers.has("access-control-request-private-network")
        ? { "access-control-allow-private-network": "true" }
        : {}),
      "access-control-max-age": "600",
    },
  });
}

/** How many requests an address may send. */
export interface RateOptions {
  /** Requests a second in the long run. */
  readonly perSecond: number;
  /** Requests at once after a quiet time. */
  readonly burst: number;
}

/** Addresses that are remembered. */
const MOST_ADDRESSES = 4096;

/** Limits the requests of each address: a bucket of tokens for each. */
export class RateLimit {
  readonly #options: RateOptions;
  readonly #buckets = new Map<string, { left: number; at: number }>();

  /** See {@linkcode RateOptions}. */
  constructor(options: RateOptions) {
    this.#options = options;
  }

  /**
   * Counts a request.
   *
   * @param address Who sends it.
   * @param cost What it counts as.
   * @param now Milliseconds.
   * @returns Seconds to wait; 0 if it may pass.
   */
  take(address: string, cost: number, now: number = performance.now()): number {
    const { perSecond, burst } = this.#options;
    const bucket = this.#buckets.get(address) ?? { left: burst, at: now };
    const left = Math.min(burst, bucket.left + (now - bucket.at) / 1000 * perSecond);
    // The oldest goes first, and it is as good as full.
    this.#buckets.delete(address);
    const passes = left >= 1;
    this.#buckets.set(address, { left: passes ? left - cost : left, at: now });
    for (const [oldest] of this.#buckets) {
      if (this.#buckets.size <= MOST_ADDRESSES) break;
      this.#buckets.delete(oldest);
    }
    return passes ? 0 : Math.max(1, Math.ceil((1 - left) / perSecond));
  }
}

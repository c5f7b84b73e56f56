/**
 * Pages that the control server serves.
 *
 * @module
 */

import type { PageFile } from "../page_file.ts";

/**
 * What a page may do: run scripts and workers of this server, and talk to it. Nothing else, and nobody may show it in
 * a frame. Scripts come only from addresses that the policy `edgetuner` of Trusted Types has passed.
 */
export const PAGE_POLICY: string = [
  "default-src 'none'",
  "script-src 'self'",
  "worker-src 'self'",
  "connect-src 'self'",
  "style-src 'self'",
  "img-src 'self' data: blob:",
  "font-src 'self'",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types edgetuner",
].join("; ");

/** Headers of every answer. */
export const SECURITY_HEADERS: Readonly<Record<string, string>> = {
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
};

/** Bytes below which compressing is not worth it. */
const SMALL = 1024;

/** Serves files by their paths. */
export class Pages {
  readonly #pages: ReadonlyMap<string, PageFile>;
  readonly #prepared = new WeakMap<PageFile, Promise<Prepared>>();

  /**
   * Reads the map at every request.
   *
   * @param pages The files, by path.
   */
  constructor(pages: ReadonlyMap<string, PageFile>) {
    this.#pages = pages;
  }

  /** Answers a request for a file; `null` if there is none of that path. */
  async answer(request: Request): Promise<Response | null> {
    if (request.method !== "GET" && request.method !== "HEAD") return null;
    const { pathname } = new URL(request.url);
    const page = this.#pages.get(pathname);
    if (page === undefined) {
      // Addresses within a page are relative to its folder.
      const isFolder = this.#pages.has(`${pathname}/`);
      return isFolder ? new Response(null, { status: 308, headers: { location: `${pathname}/` } }) : null;
    }
    const prepared = this.#prepared.get(page) ?? prepare(page);
    this.#prepared.set(page, prepared);
    const { etag, plain, gzip } = await prepared;
    const headers: Record<string, string> = {
      "content-type": page.type,
      "content-security-policy": PAGE_POLICY,
      // Kept, but asked for again: after an update a page never has files of two versions.
      "cache-control": "no-cache",
      etag,
      vary: "accept-encoding",
    };
    if (request.headers.get("if-none-match") === etag) return new Response(null, { status: 304, headers });
    const isGzip = gzip !== null && /\bgzip\b/.test(request.headers.get("accept-encoding") ?? "");
    const body = isGzip ? gzip : plain;
    if (isGzip) headers["content-encoding"] = "gzip";
    headers["content-length"] = String(body.byteLength);
    return new Response(request.method === "HEAD" ? null : body, { headers });
  }
}

/** What is made of a file when it is first asked for. */
interface Prepared {
  readonly etag: string;
  readonly plain: Uint8Array<ArrayBuffer>;
  /** Compressed; `null` where that is not worth it. */
  readonly gzip: Uint8Array<ArrayBuffer> | null;
}

async function prepare({ body }: PageFile): Promise<Prepared> {
  const plain = new TextEncoder().encode(body);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", plain));
  const etag = `"${digest.subarray(0, 16).toHex()}"`;
  if (plain.byteLength < SMALL) return { etag, plain, gzip: null };
  const stream = new Blob([plain]).stream().pipeThrough(new CompressionStream("gzip"));
  const gzip = new Uint8Array(await new Response(stream).arrayBuffer());
  return { etag, plain, gzip: gzip.byteLength < plain.byteLength ? gzip : null };
}

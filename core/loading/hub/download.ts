/**
 * Downloads that survive bad connections: they go on where they stopped, and what arrives is checked
 * before it gets its name.
 *
 * @module
 */

import { isDiskError, publishFile, saveError, writeWhole } from "../../files/atomic.ts";
import { DownloadError } from "../../contracts/errors.ts";

/** What a file must be. */
export interface Checksum {
  /** `sha256`, or `git` for the SHA-1 that git gives a file's content. */
  readonly kind: "sha256" | "git";
  /** In hexadecimal. */
  readonly value: string;
}

/** Options of `download`. */
export interface DownloadOptions {
  /** Sent as a bearer token, to the address's own host alone. */
  readonly token?: string | undefined;
  /** Bytes that the file must have, if known. */
  readonly size?: number | undefined;
  /** Checksum that the file must have, if known. */
  readonly checksum?: Checksum | undefined;
  /** Most bytes that the file may have, if `size` is not given. @default {268435456} */
  readonly maxBytes?: number | undefined;
  /** Longest silence of the server, in milliseconds. @default {30000} */
  readonly idleTimeoutMs?: number | undefined;
  /** Fewest bytes that must come in that time: what comes more slowly counts as silence. @default {30000} */
  readonly minBytes?: number | undefined;
  /**
   * Milliseconds in which an answer that brings something must bring 1,000 bytes: what comes in smaller crumbs for
   * longer ends the download at once. @default {4000}
   */
  readonly trickleMs?: number | undefined;
  /** Tries in a row that bring nothing new before giving up. @default {5} */
  readonly tries?: number | undefined;
  /** Pause before the second try, in milliseconds; doubled each time. @default {1000} */
  readonly pauseMs?: number | undefined;
  /** Ends the download; what came so far is kept. */
  readonly signal?: AbortSignal | undefined;
  /** Called as bytes arrive; `total` is `null` while it is not known. */
  onProgress?(done: number, total: number | null): void;
}

/** Remembered beside a partial file: the version of the file that the bytes belong to. */
interface Origin {
  readonly url: string;
  readonly etag: string | null;
}

/** Most bytes of a file whose size nobody said. */
const MAX_BYTES = 2 ** 28;
/** Fewest bytes in the longest silence. */
const MIN_BYTES = 30_000;

/** Fewest bytes in `trickleMs`; a link that is only slow sends more in one packet. */
const TRICKLE_BYTES = 1000;
/** Milliseconds for the rest of a packet whose first bytes were read. */
const PACKET_MS = 300;

/** A failure after which trying again makes sense. */
class Passing extends Error {}

/** A server that sends a few bytes at a time: trying again makes sense only if it sent more before. */
class Trickling extends Passing {}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await Deno.stat(path)).size;
  } catch {
    return 0;
  }
}

async function readOrigin(path: string): Promise<Origin | null> {
  try {
    return JSON.parse(await Deno.readTextFile(path)) as Origin;
  } catch {
    return null;
  }
}

async function remove(...paths: string[]): Promise<void> {
  for (const path of paths) await Deno.remove(path).catch(() => {});
}

/** What an answer that brings no bytes means for a person. */
function refusal(status: number, url: string, token: string | undefined): Error {
  if (status === 401 || status === 403) {
    return new DownloadError(
      `Cannot download ${url} as the server must allow it: it answered ${status}. ${
        token
          ? "The token has no access: has its owner accepted the terms of this model or data set?"
          : "It needs a token: pass one, or set HF_TOKEN"
      }`,
    );
  }
  if (status === 404 || status === 410) {
    return new DownloadError(`Cannot download ${url} as it must exist: the server answered ${status}`);
  }
  const text = `the server answered ${status}`;
  return status === 408 || status === 429 || status >= 500 ? new Passing(text) : new DownloadError(
    `Cannot download ${url} as the server must send it: ${text}`,
  );
}

/** One try; returns when the file is whole as far as the server says. */
async function attempt(url: string, path: string, options: DownloadOptions): Promise<void> {
  const { token, idleTimeoutMs = 30_000, minBytes = MIN_BYTES, signal, size } = options;
  const { maxBytes = MAX_BYTES, trickleMs = 4000 } = options;
  const [partial, note] = [`${path}.partial`, `${path}.partial.json`];
  const origin = await readOrigin(note);
  let have = origin?.url === url && origin.etag !== null ? await sizeOf(partial) : 0;
  let total: number | null = null;
  using idle = new IdleLimit(minBytes, idleTimeoutMs);
  using trickle = new TrickleLimit(trickleMs);
  const signals = [idle.signal, trickle.signal, ...(signal === undefined ? [] : [signal])];
  let response: Response | undefined;
  try {
    response = await fetch(url, {
      headers: {
        // Compressed answers have no usable length and cannot be continued.
        "accept-encoding": "identity",
        ...(token ? { authorization: `Bearer ${token}` } : {}),
        ...(have > 0 ? { range: `bytes=${have}-`, "if-range": origin!.etag! } : {}),
      },
      signal: AbortSignal.any(signals),
    });
    if (response.status === 416) {
      await remove(partial, note);
      throw new Passing("the partial file did not fit");
    }
    if (!response.ok) throw refusal(response.status, url, token);
    const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get("content-range") ?? "");
    if (response.status !== 206 || Number(range?.[1]) !== have) {
      if (response.status === 206) {
        await remove(partial, note);
        throw new Passing("the server sent another part than asked for");
      }
      have = 0;
      await remove(partial);
      await writeWhole(
        note,
        JSON.stringify({ url, etag: response.headers.get("etag") } satisfies Origin),
      );
    }
    const length = response.headers.get("content-length");
    total = range && range[2] !== "*" ? Number(range[2]) : length === null ? null : have + Number(length);
    requireSize(url, Math.max(have, total ?? 0), { size, maxBytes });
    using file = await Deno.open(partial, { write: true, create: true, append: true });
    options.onProgress?.(have, total);
    idle.restart(); // the answer has begun
    for await (const chunk of response.body ?? []) {
      idle.came(chunk.length);
      trickle.came(chunk.length);
      requireSize(url, have + chunk.length, { size, maxBytes });
      for (let written = 0; written < chunk.length;) written += await file.write(chunk.subarray(written));
      have += chunk.length;
      options.onProgress?.(have, total);
    }
    if (total !== null && have < total) {
      throw new Passing(`the connection ended after ${have} of ${total} bytes`);
    }
  } catch (error) {
    // Otherwise the connection stays, and what a server sends on it.
    if (response?.body?.locked === false) await response.body.cancel().catch(() => {});
    signal?.throwIfAborted();
    if (error instanceof DownloadError) throw error;
    if (isDiskError(error)) throw saveError(path, error);
    if (error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.NotFound) throw error;
    if (error instanceof Trickling) throw error;
    const message = error instanceof Error ? error.message : String(error);
    throw new Passing(total === null ? message : `${message}, after ${have} of ${total} bytes`);
  }
}

/** Ends a try in which too few bytes come for too long. */
class IdleLimit implements Disposable {
  readonly #minBytes: number;
  readonly #timeoutMs: number;
  readonly #controller = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #bytes = 0;

  /** Begins at once. */
  constructor(minBytes: number, timeoutMs: number) {
    this.#minBytes = minBytes;
    this.#timeoutMs = timeoutMs;
    this.restart();
  }

  /** Aborts with a `Passing` once too little came. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Begins anew. */
  restart(): void {
    clearTimeout(this.#timer);
    this.#bytes = 0;
    this.#timer = setTimeout(() => {
      const what = this.#bytes === 0 ? "nothing" : `less than ${this.#minBytes} bytes`;
      this.#controller.abort(new Passing(`${what} came for ${this.#timeoutMs} ms`));
    }, this.#timeoutMs);
  }

  /** Bytes came: begins anew once they are enough. */
  came(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes >= this.#minBytes) this.restart();
  }

  /** Ends it. */
  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

/** Ends a try of which bytes come, but in crumbs. */
class TrickleLimit implements Disposable {
  readonly #timeoutMs: number;
  readonly #controller = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #since: number | null = null;
  #bytes = 0;

  /** @param timeoutMs Milliseconds in which `TRICKLE_BYTES` must come, from the first of them on. */
  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
  }

  /** Aborts with a `Trickling` once bytes came as crumbs for too long; silence is no trickle. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Bytes came. */
  came(bytes: number): void {
    this.#bytes += bytes;
    this.#since ??= performance.now();
    if (this.#bytes >= TRICKLE_BYTES) {
      this[Symbol.dispose]();
      [this.#since, this.#bytes] = [null, 0];
      return;
    }
    if (performance.now() - this.#since < this.#timeoutMs) return;
    this.#timer ??= setTimeout(() => {
      const seconds = (performance.now() - this.#since!) / 1000;
      this.#controller.abort(
        new Trickling(
          `as the server must send at least ${TRICKLE_BYTES} bytes in ${
            this.#timeoutMs / 1000
          } seconds: it sent ${this.#bytes} in ${seconds.toFixed(1)}`,
        ),
      );
    }, PACKET_MS);
  }

  /** Ends it. */
  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

/**
 * Refuses more bytes than a file may have, as soon as they are announced or come.
 *
 * @throws {DownloadError} If there are more.
 */
function requireSize(
  url: string,
  bytes: number,
  { size, maxBytes }: { readonly size: number | undefined; readonly maxBytes: number },
): void {
  const rule = size === undefined ? `have at most ${maxBytes} bytes` : `have ${size} bytes`;
  if (bytes <= (size ?? maxBytes)) return;
  throw new DownloadError(`Cannot use ${url} as it must ${rule}: it has ${bytes} or more`);
}

async function verify(url: string, path: string, { size, checksum }: DownloadOptions): Promise<void> {
  const actual = await sizeOf(path);
  if (size !== undefined && actual !== size) {
    throw new DownloadError(`Cannot use ${url} as it must have ${size} bytes: it has ${actual}`);
  }
  if (checksum === undefined) return;
  const { createHash } = await import("node:crypto"); // here, as modules for browsers must load without it
  const hash = createHash(checksum.kind === "git" ? "sha1" : "sha256");
  if (checksum.kind === "git") hash.update(`blob ${actual}\0`);
  using file = await Deno.open(path);
  const buffer = new Uint8Array(1 << 20);
  for (let n = await file.read(buffer); n !== null; n = await file.read(buffer)) {
    hash.update(buffer.subarray(0, n));
  }
  const digest = hash.digest("hex");
  if (digest !== checksum.value.toLowerCase()) {
    throw new DownloadError(
      `Cannot use ${url} as its ${checksum.kind} checksum must be ${checksum.value}: it is ${digest}`,
    );
  }
}

/** Waits. @throws The signal's reason, if it is aborted. */
export async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  const onAbort = () => reject(signal!.reason);
  signal?.addEventListener("abort", onAbort);
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

/**
 * Downloads a file. A partial download of the same file beside it is continued; a connection that is
 * cut or goes silent is opened again; a server that sends crumbs is given up. Of two at once to the same path the bytes would mix; `pullModel` and
 * `pullDataset` see to that. Proxies are those that `fetch` honours (`HTTPS_PROXY`, `NO_PROXY`).
 *
 * @param url Where from.
 * @param path Where to; its folder must exist. Nothing has this name before the whole file is there and right.
 * @param options Token, checks, limits.
 * @throws {DownloadError} If the server refuses, does not have the file, or what came is not right.
 * @throws {SaveError} If the disk is full, for example; what came so far is kept for the next try.
 * @throws The signal's reason, if it is aborted.
 */
export async function download(url: string, path: string, options: DownloadOptions = {}): Promise<void> {
  const { tries = 5, pauseMs = 1000, signal } = options;
  let failures = 0;
  for (;;) {
    signal?.throwIfAborted();
    const before = await sizeOf(`${path}.partial`);
    try {
      await attempt(url, path, options);
      break;
    } catch (error) {
      if (!(error instanceof Passing)) {
        // Going on from too many bytes would never end well.
        if (error instanceof DownloadError) await remove(`${path}.partial`, `${path}.partial.json`);
        throw error;
      }
      // A server that sends a few bytes each time would never be done.
      const enough = await sizeOf(`${path}.partial`) - before >= (options.minBytes ?? MIN_BYTES);
      failures = enough ? 1 : failures + 1;
      if (error instanceof Trickling && !enough) {
        throw new DownloadError(`Cannot download ${url} ${error.message}`, { cause: error });
      }
      if (failures >= tries) {
        throw new DownloadError(
          `Cannot download ${url} as one of ${tries} tries in a row must bring something: ${error.message}`,
          { cause: error },
        );
      }
      await pause(pauseMs * 2 ** (failures - 1), signal);
    }
  }
  try {
    await verify(url, `${path}.partial`, options);
  } catch (error) {
    // Going on from wrong bytes would never end well.
    await remove(`${path}.partial`, `${path}.partial.json`);
    throw error;
  }
  await publishFile(`${path}.partial`, path);
  await remove(`${path}.partial.json`);
}

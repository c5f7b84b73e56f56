/**
 * A transport over plain HTTP requests, for networks whose proxies break WebSocket. The connecting
 * side runs in Deno and in browsers, the accepting side in any fetch handler.
 *
 * The protocol, for peers written in other languages. All requests go to one address:
 *
 * - `POST` with `edgetuner-open: 1` opens the session whose name the client chose: 32 random bytes as
 *   base64url in `edgetuner-session`, which each request carries. Whoever knows the name owns the session.
 * - `POST` sends frames: `edgetuner-seq` is the number of the first one (0, 1, 2, ...), the body holds
 *   each frame after its length (32 bits, low byte first). Repeating a request does no harm: the
 *   server skips frames that it has.
 * - `GET` receives frames: `edgetuner-ack` is the number of the next frame that the client wants; the
 *   server keeps frames until they are acknowledged so. Without frames it answers 204 after a while, and after
 *   `edgetuner-hold` milliseconds at the latest if the request says so.
 * - The answer to opening says the largest frame (`edgetuner-max-frame`, bytes) and the silence after
 *   which the server ends the session (`edgetuner-idle`, milliseconds).
 * - `edgetuner-grant: N` goes both ways: the other side may send until the sum of `bytes + 64` over its
 *   frames reaches N; the frame that crosses the line is still allowed.
 * - `edgetuner-close: clean REASON` (percent-encoded; `broken` instead of `clean` after a failure) goes
 *   both ways and comes with or after the last frames.
 *
 * A body is at most 1 MiB or one frame. Set `maxFrameBytes` below the limit of the proxy.
 *
 * @module
 */

import {
  type Channel,
  ChannelClosedError,
  type CloseInfo,
  HandshakeError,
  type Listener,
  type Transport,
  type TransportFlags,
  type WaitOptions,
} from "@edgetuner/core/contracts";
import { Backlog } from "./_backlog.ts";
import { Flow } from "./_flow.ts";
import {
  batchLength,
  formatClose,
  HEADER,
  joinFrames,
  maxBodyBytes,
  parseClose,
  readBody,
  readCount,
  splitFrames,
} from "./_http_body.ts";
import {
  count,
  DEFAULT_MAX_FRAME_BYTES,
  DEFAULT_QUEUE_BYTES,
  endpoint,
  isForGood,
  milliseconds,
} from "./_options.ts";
import { detailOf, refusal } from "./problem.ts";
import { type Frame, frameCost, type Wire, WireChannel } from "./_wire_channel.ts";
import { type Authorize, checkToken } from "./token.ts";
import type { HandleOptions } from "./web_socket.ts";

/** Options that both sides of the HTTP transport have. */
export interface HttpOptions {
  /**
   * Largest frame in bytes, both ways; a channel uses the smaller value of the two sides.
   *
   * @default {67108864}
   */
  readonly maxFrameBytes?: number;
  /**
   * Bytes that the peer may have sent beyond what was taken by `receive`, and that may wait to be
   * fetched by it; one frame may exceed it. A peer that sends more is closed.
   *
   * @default {4194304}
   */
  readonly queueBytes?: number;
  /**
   * Longest time in milliseconds that closing waits for the peer.
   *
   * @default {5000}
   */
  readonly closeTimeoutMs?: number;
}

/** Options of {@linkcode httpTransport}. */
export interface HttpTransportOptions extends HttpOptions {
  /** Address of the listener. */
  readonly url: string | URL;
  /** Token shown to the listener in `Authorization: Bearer`. Visible ASCII characters only. */
  readonly token?: string;
  /**
   * Longest time in milliseconds that connecting takes.
   *
   * @default {10000}
   */
  readonly connectTimeoutMs?: number;
  /**
   * Longest time in milliseconds without an answer to a request; requests for frames ask to be answered within a
   * third of it. Sending gets 1 ms more for each 100 bytes.
   *
   * @default {30000}
   */
  readonly requestTimeoutMs?: number;
  /**
   * Time in milliseconds over which a failed request is repeated before the channel is given up; the last try
   * ends with it.
   *
   * @default {10000}
   */
  readonly retryTimeoutMs?: number;
}

/** Options of {@linkcode httpListener}. */
export interface HttpListenerOptions extends HttpOptions {
  /** Decides on every request; everyone may use the listener if absent. */
  readonly authorize?: Authorize;
  /**
   * Largest number of channels that are open at the same time.
   *
   * @default {256}
   */
  readonly maxChannels?: number;
  /**
   * Time in milliseconds that a request for frames is held when there are none.
   *
   * @default {20000}
   */
  readonly pollTimeoutMs?: number;
  /**
   * Time in milliseconds without any sign of the peer after which a channel ends; must be above
   * `pollTimeoutMs`.
   *
   * @default {60000}
   */
  readonly idleTimeoutMs?: number;
}

/** The accepting side of the HTTP transport, returned by {@linkcode httpListener}. */
export interface HttpListener extends Listener {
  /**
   * Answers one request; mount it on a path of any fetch handler.
   *
   * Answers 401 if `authorize` refuses, 404 for an unknown session, 405 for another method than GET and
   * POST, 413 if a body is too large, 409 and 400 if the protocol is broken, 503 if no channel can be
   * taken on.
   *
   * @param request The request as it came in.
   * @param options What is known about the peer.
   * @returns The response to send back.
   */
  handle(request: Request, options?: HandleOptions): Promise<Response>;
}

interface Limits {
  readonly maxFrameBytes: number;
  readonly queueBytes: number;
  readonly closeTimeoutMs: number;
}

function readLimits(options: HttpOptions): Limits {
  return {
    maxFrameBytes: count("maxFrameBytes", options.maxFrameBytes, DEFAULT_MAX_FRAME_BYTES),
    queueBytes: count("queueBytes", options.queueBytes, DEFAULT_QUEUE_BYTES),
    closeTimeoutMs: milliseconds("closeTimeoutMs", options.closeTimeoutMs, 5000),
  };
}

/** A wait of at most `ms` that can be cut short. Never leaves a timer behind. */
class Pause {
  readonly #done = Promise.withResolvers<void>();
  readonly #timer: ReturnType<typeof setTimeout>;
  /** Resolves at the end of the wait. */
  readonly over: Promise<void> = this.#done.promise;

  constructor(ms: number) {
    this.#timer = setTimeout(() => this.#done.resolve(), ms);
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#done.resolve();
  }
}

/**
 * Frames that the peer has not acknowledged. Bounded whatever the peer grants, as one that grants much
 * and fetches nothing would fill the memory.
 */
class Outbox {
  readonly #queueBytes: number;
  readonly #frames: Frame[] = [];
  #bytes = 0;
  #first = 0;

  constructor(queueBytes: number) {
    this.#queueBytes = queueBytes;
  }

  /** Number of frames. */
  get length(): number {
    return this.#frames.length;
  }

  /** Sequence number of the first frame. */
  get first(): number {
    return this.#first;
  }

  /** True if no frame should be added now. */
  get full(): boolean {
    return this.#bytes >= this.#queueBytes;
  }

  push(frame: Frame): void {
    this.#frames.push(frame);
    this.#bytes += frameCost(frame);
  }

  /** Returns the first frames, as many as go into one body. */
  batch(): Frame[] {
    return this.#frames.slice(0, batchLength(this.#frames));
  }

  /** Drops all frames; those in a request under way can still be acknowledged. */
  clear(): void {
    this.#frames.length = 0;
    this.#bytes = 0;
  }

  /** Counts `length` frames as arrived and drops them. */
  acknowledge(length: number): void {
    for (const frame of this.#frames.splice(0, length)) this.#bytes -= frameCost(frame);
    this.#first += length;
  }
}

/** What `HttpClientWire` needs to know. */
interface ClientSetup extends Limits {
  readonly url: URL;
  readonly headers: Record<string, string>;
  readonly requestTimeoutMs: number;
  readonly retryTimeoutMs: number;
  readonly keepAliveMs: number;
  readonly firstGrant: number;
}

/** An answer with its body. */
interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Frame;
}

/** The peer answered in a way that repeating the request will not change. */
class Refused extends Error {}

const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 2000;

class HttpClientWire implements Wire {
  readonly #setup: ClientSetup;
  readonly #channel: WireChannel;
  readonly #flow: Flow;
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;
  readonly #out: Outbox;
  #inSeq = 0;
  #nap: Pause | undefined;
  #closing: CloseInfo | undefined;
  /** True once the peer ended the channel: it needs a farewell, not repeated attempts. */
  #peerEnded = false;

  constructor(setup: ClientSetup, channel: WireChannel) {
    this.#setup = setup;
    this.#channel = channel;
    this.#flow = new Flow(setup.queueBytes);
    this.#out = new Outbox(setup.queueBytes);
    this.#flow.raise(setup.firstGrant);
    this.#stop.signal.addEventListener("abort", () => this.#nap?.end(), { once: true });
    this.#done = this.#run();
  }

  ready(): boolean {
    return this.#flow.ready && !this.#out.full;
  }

  write(frame: Frame): void {
    this.#flow.sent(frame);
    this.#out.push(frame);
    this.#nap?.end();
  }

  taken(frame: Frame): void {
    this.#flow.taken(frame);
    if (this.#flow.due) this.#nap?.end();
  }

  async shutdown(reason: string): Promise<void> {
    this.#closing ??= { clean: true, reason };
    await this.#farewell();
  }

  async #run(): Promise<void> {
    // The channel that asks for this is not complete yet.
    await Promise.resolve();
    const stop = () => this.#stop.abort();
    const fail = (error: unknown) => {
      this.#channel.end({ clean: false, reason: error instanceof Error ? error.message : String(error) });
      stop();
    };
    await Promise.all([this.#sendAll().catch(fail).finally(stop), this.#receiveAll().catch(fail)]);
    if (!this.#closing) this.#channel.settle();
  }

  /** Lets the sending loop finish, but not for long. */
  async #farewell(): Promise<void> {
    this.#nap?.end();
    const { cut } = this.#channel;
    const stop = () => this.#stop.abort();
    if (cut.aborted) stop();
    cut.addEventListener("abort", stop, { once: true });
    const timer = setTimeout(stop, this.#setup.closeTimeoutMs);
    await this.#done;
    clearTimeout(timer);
    cut.removeEventListener("abort", stop);
  }

  async #sendAll(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      if (this.#out.length === 0 && !this.#closing && !this.#flow.due) {
        this.#nap = new Pause(this.#setup.keepAliveMs);
        await this.#nap.over;
        if (this.#stop.signal.aborted) return;
      }
      const batch = this.#out.batch();
      const closing = batch.length === this.#out.length ? this.#closing : undefined;
      const headers = {
        [HEADER.seq]: String(this.#out.first),
        ...(closing && { [HEADER.close]: formatClose(closing) }),
      };
      const answer = await this.#request("POST", headers, joinFrames(batch));
      if (!answer || closing) return;
      this.#out.acknowledge(batch.length);
      this.#raise(answer.headers);
      this.#channel.wake();
    }
  }

  async #receiveAll(): Promise<void> {
    while (!this.#stop.signal.aborted && this.#channel.receiving) {
      const answer = await this.#request("GET", {
        [HEADER.ack]: String(this.#inSeq),
        [HEADER.hold]: String(Math.ceil(this.#setup.requestTimeoutMs / 3)),
      });
      if (!answer) return;
      this.#raise(answer.headers);
      const frames = splitFrames(answer.body, this.#setup.maxFrameBytes);
      if (!frames) throw new Refused("The answer of the peer is malformed");
      // An answer to an earlier attempt may come late.
      if (frames.length > 0 && readCount(answer.headers, HEADER.seq) !== this.#inSeq) continue;
      for (const frame of frames) {
        if (!this.#flow.received(frame)) {
          throw new Refused(`More than ${this.#setup.queueBytes} bytes wait to be received`);
        }
        this.#inSeq++;
        this.#channel.deliver(frame);
      }
      const info = parseClose(answer.headers);
      if (info && this.#channel.receiving) {
        this.#channel.end(info);
        this.#peerEnded = true;
        this.#out.clear();
        this.#closing = { clean: true, reason: "" };
        this.#farewell().then(() => this.#channel.settle());
      }
    }
  }

  #raise(headers: Headers): void {
    if (this.#flow.raise(readCount(headers, HEADER.grant) ?? 0)) this.#channel.wake();
  }

  /** Sends one request until it is answered; `undefined` once the wire is stopped. */
  async #request(
    method: "GET" | "POST",
    headers: Record<string, string>,
    body?: Frame,
  ): Promise<Answer | undefined> {
    const stop = this.#stop.signal;
    let failedAt: number | undefined;
    let failure = "";
    for (let delay = RETRY_FIRST_MS;; delay = Math.min(2 * delay, RETRY_MAX_MS)) {
      try {
        const grant = String(this.#flow.grant());
        const leftMs = failedAt === undefined
          ? Infinity
          : Math.max(1, failedAt + this.#setup.retryTimeoutMs - performance.now());
        const answer = await this.#attempt(method, { ...headers, [HEADER.grant]: grant }, { body, leftMs });
        if (answer.status === 200 || answer.status === 204) return answer;
        failure = describe(answer.status, detailOf(new TextDecoder().decode(answer.body)));
        if (answer.status < 400 || isForGood(answer.status)) throw new Refused(failure);
      } catch (error) {
        if (stop.aborted || this.#peerEnded) return undefined;
        if (error instanceof Refused) throw error;
        const text = error instanceof Error ? error.message : String(error);
        // The last try has less time than the others: what they said tells more.
        if (failedAt === undefined || !text.startsWith("no answer")) failure = text;
      }
      const now = performance.now();
      failedAt ??= now;
      if (stop.aborted || this.#peerEnded) return undefined;
      if (now - failedAt + delay > this.#setup.retryTimeoutMs) throw new Refused(failure);
      const pause = new Pause(delay);
      const end = () => pause.end();
      stop.addEventListener("abort", end, { once: true });
      await pause.over;
      stop.removeEventListener("abort", end);
    }
  }

  async #attempt(
    method: "GET" | "POST",
    headers: Record<string, string>,
    { body, leftMs }: { readonly body: Frame | undefined; readonly leftMs: number },
  ): Promise<Answer> {
    const { url, requestTimeoutMs, maxFrameBytes } = this.#setup;
    return await exchange(url, {
      method,
      headers: { ...this.#setup.headers, ...headers },
      ...(body && { body }),
    }, {
      signal: this.#stop.signal,
      timeoutMs: Math.ceil(Math.min(leftMs, requestTimeoutMs + (body?.byteLength ?? 0) / 100)),
      maxBytes: maxBodyBytes(maxFrameBytes),
    });
  }
}

interface ExchangeOptions {
  readonly signal: AbortSignal | undefined;
  /** Limit for the headers of the answer, then for its body, see `BodyLimits`. */
  readonly timeoutMs: number;
  readonly maxBytes: number;
}

/** Does one request and reads the answer. */
async function exchange(url: URL, init: RequestInit, options: ExchangeOptions): Promise<Answer> {
  const { signal, timeoutMs, maxBytes } = options;
  const controller = new AbortController();
  const abort = () => controller.abort(signal?.reason);
  const late = () => controller.abort(new Error(`no answer within ${timeoutMs} ms`));
  const timer = setTimeout(late, timeoutMs);
  signal?.addEventListener("abort", abort, { once: true });
  if (signal?.aborted) abort();
  try {
    const response = await fetch(url, {
      ...init,
      cache: "no-store",
      credentials: "omit",
      redirect: "manual",
      signal: controller.signal,
    });
    clearTimeout(timer);
    const body = await readBody(response, { maxBytes, timeoutMs, signal: controller.signal });
    if (!body) throw new Refused(`The answer must not exceed ${maxBytes} bytes`);
    return { status: response.status, headers: response.headers, body };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

function describe(status: number, text: string): string {
  return `the answer was HTTP ${status}${text && `: ${text}`}`;
}

/**
 * Makes the connecting side.
 *
 * @example Usage
 * ```ts
 * import { httpListener, httpTransport } from "@edgetuner/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using listener = httpListener();
 * await using server = Deno.serve({ port: 0, onListen() {} }, (request) => listener.handle(request));
 *
 * const transport = httpTransport({ url: `http://127.0.0.1:${server.addr.port}/frames` });
 * await using device = await transport.connect();
 * await using edge = await listener.accept();
 *
 * await device.send(new Uint8Array([1, 2, 3]));
 * assertEquals(await edge?.receive(), new Uint8Array([1, 2, 3]));
 * ```
 *
 * @param options Address, token and limits.
 * @returns The transport; nothing is opened before `connect`.
 * @throws {RangeError} If an option is out of range.
 * @throws {SyntaxError} If `url` is not a URL.
 * @throws {TypeError} If `url` has another scheme, or `token` does not fit into a header.
 */
export function httpTransport(options: HttpTransportOptions): Transport {
  const url = endpoint(options.url, "http");
  const { token } = options;
  if (token !== undefined) checkToken(token);
  const limits = readLimits(options);
  const connectTimeoutMs = milliseconds("connectTimeoutMs", options.connectTimeoutMs, 10_000);
  const requestTimeoutMs = milliseconds("requestTimeoutMs", options.requestTimeoutMs, 30_000);
  const retryTimeoutMs = milliseconds("retryTimeoutMs", options.retryTimeoutMs, 10_000);
  const flags: TransportFlags = {
    duplex: false,
    ordered: true,
    remote: true,
    maxFrameBytes: limits.maxFrameBytes,
  };

  async function connect({ signal }: WaitOptions = {}): Promise<Channel> {
    signal?.throwIfAborted();
    const id = crypto.getRandomValues(new Uint8Array(32)).toBase64({
      alphabet: "base64url",
      omitPadding: true,
    });
    const headers = {
      [HEADER.session]: id,
      "content-type": "application/octet-stream",
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
    };
    const answer = await exchange(url, {
      method: "POST",
      headers: { ...headers, [HEADER.open]: "1", [HEADER.grant]: String(limits.queueBytes) },
    }, { signal, timeoutMs: connectTimeoutMs, maxBytes: 2 ** 16 }).catch((error) => {
      signal?.throwIfAborted();
      throw new ChannelClosedError(`Cannot connect to ${url.href}: ${error.message}`, { cause: error });
    });
    const firstGrant = readCount(answer.headers, HEADER.grant);
    const theirMax = readCount(answer.headers, HEADER.maxFrame);
    if (answer.status !== 200 || firstGrant === undefined || theirMax === undefined) {
      const why = answer.status === 401
        ? token === undefined ? "a token is required" : "the token was refused"
        : describe(answer.status, detailOf(new TextDecoder().decode(answer.body)));
      throw new (isForGood(answer.status) ? HandshakeError : ChannelClosedError)(
        `Cannot connect to ${url.href}: ${why}`,
      );
    }
    const maxFrameBytes = Math.min(limits.maxFrameBytes, theirMax);
    const idleTimeoutMs = readCount(answer.headers, HEADER.idle) ?? 60_000;
    const setup: ClientSetup = {
      ...limits,
      url,
      headers,
      requestTimeoutMs,
      retryTimeoutMs,
      firstGrant,
      keepAliveMs: Math.max(1, Math.floor(idleTimeoutMs / 3)),
    };
    return new WireChannel(
      { peer: url.host, maxFrameBytes },
      (channel) => new HttpClientWire(setup, channel),
    );
  }

  return { name: "http", flags, connect };
}

/** One channel at the accepting side. */
class HttpSession implements Wire {
  readonly #channel: WireChannel;
  readonly #limits: Limits;
  readonly #pollTimeoutMs: number;
  readonly #flow: Flow;
  readonly #told = Promise.withResolvers<void>();
  readonly #out: Outbox;
  #inSeq = 0;
  #poll: Pause | undefined;
  #polled = false;
  #closing: CloseInfo | undefined;
  /** When the peer was last heard of, as `performance.now()`. */
  lastSeen: number = performance.now();
  readonly #ended = new AbortController();
  /** Number of bodies that are being read. */
  reading = 0;
  /** True once the session is only kept for a peer that asks again for the end. */
  over = false;

  constructor(channel: WireChannel, limits: Limits, pollTimeoutMs: number, grant: number) {
    this.#channel = channel;
    this.#limits = limits;
    this.#pollTimeoutMs = pollTimeoutMs;
    this.#flow = new Flow(limits.queueBytes);
    this.#out = new Outbox(limits.queueBytes);
    this.#flow.raise(grant);
  }

  ready(): boolean {
    return this.#flow.ready && !this.#out.full;
  }

  write(frame: Frame): void {
    this.#flow.sent(frame);
    this.#out.push(frame);
    this.#poll?.end();
  }

  taken(frame: Frame): void {
    this.#flow.taken(frame);
    if (this.#flow.due) this.#poll?.end();
  }

  async shutdown(reason: string): Promise<void> {
    this.#closing ??= { clean: true, reason };
    this.#poll?.end();
    if (this.#polled) {
      const { cut } = this.#channel;
      const end = () => this.#told.resolve();
      if (cut.aborted) end();
      cut.addEventListener("abort", end, { once: true });
      const timer = setTimeout(end, this.#limits.closeTimeoutMs);
      await this.#told.promise;
      clearTimeout(timer);
      cut.removeEventListener("abort", end);
    }
    this.over = true;
  }

  /** Ends the channel for a reason that the peer did not give. */
  fail(reason: string): void {
    this.#finish({ clean: false, reason });
  }

  grant(): string {
    return String(this.#flow.grant());
  }

  /** Largest frame that the channel wants now. */
  get maxFrameBytes(): number {
    return this.#channel.maxReceivedBytes;
  }

  /** Aborts once nothing more is received. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  touch(): void {
    this.lastSeen = performance.now();
  }

  /** Takes frames and what comes with them. */
  post(request: Request, seq: number, frames: readonly Frame[]): Response {
    const { headers } = request;
    this.#raise(headers);
    if (seq > this.#inSeq) {
      return refusal(409, `The next frame must have the number ${this.#inSeq}: current value is ${seq}`);
    }
    for (const frame of frames.slice(this.#inSeq - seq)) {
      if (!this.#flow.received(frame)) {
        const reason = `More than ${this.#limits.queueBytes} bytes wait to be received`;
        this.fail(reason);
        return refusal(400, reason);
      }
      this.#inSeq++;
      this.#channel.deliver(frame);
    }
    const info = parseClose(headers);
    if (info) this.#finish(info);
    return this.#answer(204, null, { [HEADER.ack]: String(this.#inSeq) });
  }

  /** Hands out frames, waiting for some if there are none. */
  async get(request: Request, ack: number): Promise<Response> {
    this.#raise(request.headers);
    if (ack > this.#out.first + this.#out.length) return refusal(409, `There is no frame ${ack} yet`);
    // One that was overtaken by a later one; nobody reads the answer.
    if (ack < this.#out.first) return this.#answer(204, null);
    this.#polled = true;
    this.#out.acknowledge(ack - this.#out.first);
    this.#channel.wake();
    this.#poll?.end();
    if (this.#out.length === 0 && !this.#closing && !this.#flow.due) {
      const hold = readCount(request.headers, HEADER.hold) ?? Infinity;
      const poll = new Pause(Math.min(hold, this.#pollTimeoutMs));
      this.#poll = poll;
      await poll.over;
      if (this.#poll !== poll || this.#out.first !== ack) return this.#answer(204, null);
      this.#poll = undefined;
    }
    const batch = this.#out.batch();
    const headers: Record<string, string> = { [HEADER.seq]: String(ack) };
    if (this.#closing && batch.length === this.#out.length) {
      headers[HEADER.close] = formatClose(this.#closing);
      this.#told.resolve();
    }
    return batch.length === 0
      ? this.#answer(204, null, headers)
      : this.#answer(200, joinFrames(batch), headers);
  }

  #finish(info: CloseInfo): void {
    this.#closing ??= info;
    this.#told.resolve();
    this.over = true;
    this.#poll?.end();
    this.#channel.end(info);
    this.#channel.settle();
    this.#ended.abort(new Error(info.reason));
  }

  #raise(headers: Headers): void {
    if (this.#flow.raise(readCount(headers, HEADER.grant) ?? 0)) this.#channel.wake();
  }

  #answer(status: number, body: Frame | null, headers: Record<string, string> = {}): Response {
    return new Response(body, {
      status,
      headers: {
        "cache-control": "no-store",
        [HEADER.grant]: this.grant(),
        ...(body && { "content-type": "application/octet-stream" }),
        ...headers,
      },
    });
  }
}

/** Names that `httpTransport` makes; shorter ones could be guessed. */
const SESSION_PATTERN = /^[\w-]{43}$/;

/** A repeated request may meet the one it replaces; more at once would only fill the memory. */
const MAX_BODIES_AT_ONCE = 2;

/**
 * Makes the accepting side. It serves nothing itself: mount `handle` in a server, such as `serve` of
 * `@edgetuner/edgetuner/server`, which limits connections. Close channels before
 * the server is shut down, as it waits for requests that are held.
 *
 * @example Usage
 * ```ts
 * import { httpListener, requireToken } from "@edgetuner/transport";
 *
 * await using listener = httpListener({ authorize: requireToken("secret"), maxFrameBytes: 2 ** 20 });
 * await using _server = Deno.serve(
 *   { port: 0, onListen() {} },
 *   (request, { remoteAddr }) => listener.handle(request, { peer: remoteAddr.hostname }),
 * );
 * ```
 *
 * @param options Authorisation and limits.
 * @returns The listener.
 * @throws {RangeError} If an option is out of range.
 */
export function httpListener(options: HttpListenerOptions = {}): HttpListener {
  const { authorize } = options;
  const limits = readLimits(options);
  const maxChannels = count("maxChannels", options.maxChannels, 256);
  const backlog = new Backlog(maxChannels);
  const pollTimeoutMs = milliseconds("pollTimeoutMs", options.pollTimeoutMs, 20_000);
  const idleTimeoutMs = milliseconds("idleTimeoutMs", options.idleTimeoutMs, 60_000);
  if (idleTimeoutMs <= pollTimeoutMs) {
    throw new RangeError(
      `Cannot set up the transport as 'idleTimeoutMs' must be above 'pollTimeoutMs': ` +
        `current values are ${idleTimeoutMs} and ${pollTimeoutMs}`,
    );
  }
  const sessions = new Map<string, HttpSession>();
  let sweeper: ReturnType<typeof setTimeout> | undefined;
  let disposed = false;

  function sweep(): void {
    sweeper = undefined;
    for (const [id, session] of sessions) {
      if (performance.now() - session.lastSeen < idleTimeoutMs) continue;
      if (!session.over) session.fail(`The peer was silent for ${idleTimeoutMs} ms`);
      remove(id);
    }
    schedule();
  }

  function schedule(): void {
    if (sessions.size > 0) sweeper ??= setTimeout(sweep, Math.max(1, idleTimeoutMs / 4));
  }

  function remove(id: string): void {
    sessions.delete(id);
    if (sessions.size > 0) return;
    clearTimeout(sweeper);
    sweeper = undefined;
  }

  function open(id: string, request: Request, peer: string): Response {
    if (backlog.refusal) return refusal(503, backlog.refusal);
    const grant = readCount(request.headers, HEADER.grant);
    if (!SESSION_PATTERN.test(id) || grant === undefined) return refusal(400, "The request is malformed");
    if (sessions.has(id)) return refusal(409, "The session exists already");
    // Sessions that are over stay for a while, and must not pile up either.
    if (sessions.size >= 2 * maxChannels) return refusal(503, "Too many sessions ended recently");
    let session: HttpSession | undefined;
    const channel = new WireChannel(
      { peer, maxFrameBytes: limits.maxFrameBytes },
      (channel) => session = new HttpSession(channel, limits, pollTimeoutMs, grant),
    );
    sessions.set(id, session!);
    // Afterwards it is kept for a peer that missed the answer which told it of the end.
    channel.closed.then(() => disposed && remove(id));
    schedule();
    backlog.offer(channel);
    return new Response("The session is open\n", {
      headers: {
        "cache-control": "no-store",
        [HEADER.grant]: session!.grant(),
        [HEADER.maxFrame]: String(limits.maxFrameBytes),
        [HEADER.idle]: String(idleTimeoutMs),
      },
    });
  }

  async function post(id: string, session: HttpSession, request: Request): Promise<Response> {
    const seq = readCount(request.headers, HEADER.seq);
    if (seq === undefined) return refusal(400, "The request is malformed");
    if (session.reading >= MAX_BODIES_AT_ONCE) return refusal(429, "An earlier request is still being read");
    const maxFrameBytes = Math.min(limits.maxFrameBytes, session.maxFrameBytes);
    const maxBytes = maxBodyBytes(maxFrameBytes);
    session.reading++;
    let body: Frame | undefined;
    try {
      body = await readBody(request, {
        maxBytes,
        timeoutMs: idleTimeoutMs,
        signal: session.ended,
        progress: () => session.touch(),
      });
    } catch {
      return refusal(408, "The body did not arrive");
    } finally {
      session.reading--;
    }
    if (!body) return refusal(413, `A body must not exceed ${maxBytes} bytes`);
    const frames = splitFrames(body, maxFrameBytes);
    if (!frames) return refusal(400, "The body is malformed");
    const response = session.post(request, seq, frames);
    if (response.ok && parseClose(request.headers)) remove(id);
    return response;
  }

  async function handle(request: Request, { peer = "http peer" }: HandleOptions = {}): Promise<Response> {
    if (authorize && !await authorize(request)) {
      return refusal(401, "A token is required", { "www-authenticate": "Bearer" });
    }
    const { method, headers } = request;
    if (method !== "GET" && method !== "POST") {
      return refusal(405, "The method must be GET or POST", { allow: "GET, POST" });
    }
    const id = headers.get(HEADER.session) ?? "";
    if (method === "POST" && headers.has(HEADER.open)) return open(id, request, peer);
    const session = sessions.get(id);
    if (!session) return refusal(404, "There is no such session");
    session.touch();
    if (method === "POST") return await post(id, session, request);
    const ack = readCount(headers, HEADER.ack);
    return ack === undefined ? refusal(400, "The request is malformed") : await session.get(request, ack);
  }

  return {
    handle,
    accept: (options) => backlog.accept(options),
    async [Symbol.asyncDispose]() {
      disposed = true;
      await backlog[Symbol.asyncDispose]();
      for (const [id, session] of sessions) {
        if (session.over) remove(id);
      }
    },
  };
}

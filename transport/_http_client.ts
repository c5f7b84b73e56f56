/**
 * The connecting side of the HTTP transport.
 *
 * @module
 */

import { trusting, type TrustingClient } from "./_trust.ts";
import {
  type Channel,
  ChannelClosedError,
  type CloseInfo,
  HandshakeError,
  type Transport,
  type TransportFlags,
  type WaitOptions,
} from "@edgetuner/core/contracts";
import { Flow } from "./_flow.ts";
import {
  formatClose,
  HEADER,
  joinFrames,
  maxBodyBytes,
  parseClose,
  readBody,
  readCount,
  splitFrames,
} from "./_http_body.ts";
import { type HttpOptions, type Limits, Outbox, Pause, readLimits } from "./_http_common.ts";
import { endpoint, isForGood, milliseconds } from "./_options.ts";
import { detailOf } from "./problem.ts";
import { checkToken } from "./token.ts";
import { type Frame, type Wire, WireChannel } from "./_wire_channel.ts";

/** Options of {@linkcode httpTransport}. */
export interface HttpTransportOptions extends HttpOptions {
  /** Address of the listener. */
  readonly url: string | URL;
  /** Certificates to trust beside those that the system does, as PEM; in Deno, not in browsers. */
  readonly caCerts?: readonly string[];
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

/** What `HttpClientWire` needs to know. */
interface ClientSetup extends Limits {
  readonly url: URL;
  readonly headers: Record<string, string>;
  readonly requestTimeoutMs: number;
  readonly retryTimeoutMs: number;
  readonly keepAliveMs: number;
  readonly firstGrant: number;
  /** What trusts more certificates than the system. */
  readonly client: TrustingClient | null;
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
    const { url, requestTimeoutMs, maxFrameBytes, client } = this.#setup;
    return await exchange(url, {
      method,
      headers: { ...this.#setup.headers, ...headers },
      ...(body && { body }),
    }, {
      signal: this.#stop.signal,
      timeoutMs: Math.ceil(Math.min(leftMs, requestTimeoutMs + (body?.byteLength ?? 0) / 100)),
      maxBytes: maxBodyBytes(maxFrameBytes),
      client,
    });
  }
}

interface ExchangeOptions {
  readonly signal: AbortSignal | undefined;
  /** Limit for the headers of the answer, then for its body, see `BodyLimits`. */
  readonly timeoutMs: number;
  readonly maxBytes: number;
  readonly client: TrustingClient | null;
}

/** Does one request and reads the answer. */
async function exchange(url: URL, init: RequestInit, options: ExchangeOptions): Promise<Answer> {
  const { signal, timeoutMs, maxBytes, client } = options;
  const controller = new AbortController();
  const abort = () => controller.abort(signal?.reason);
  const late = () => controller.abort(new Error(`no answer within ${timeoutMs} ms`));
  const timer = setTimeout(late, timeoutMs);
  signal?.addEventListener("abort", abort, { once: true });
  if (signal?.aborted) abort();
  try {
    const response = await fetch(url, {
      ...init,
      ...(client && { client }),
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
 * @category Transports
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
    const client = trusting(options.caCerts);
    const answer = await exchange(url, {
      method: "POST",
      headers: { ...headers, [HEADER.open]: "1", [HEADER.grant]: String(limits.queueBytes) },
    }, { signal, timeoutMs: connectTimeoutMs, maxBytes: 2 ** 16, client }).catch((error) => {
      client?.close();
      signal?.throwIfAborted();
      const why = (error.cause as Error | undefined)?.message ?? error.message;
      throw new ChannelClosedError(`Cannot connect to ${url.href}: ${why}`, { cause: error });
    });
    const firstGrant = readCount(answer.headers, HEADER.grant);
    const theirMax = readCount(answer.headers, HEADER.maxFrame);
    if (answer.status !== 200 || firstGrant === undefined || theirMax === undefined) {
      client?.close();
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
      client,
      keepAliveMs: Math.max(1, Math.floor(idleTimeoutMs / 3)),
    };
    const channel = new WireChannel(
      { peer: url.host, maxFrameBytes },
      (channel) => new HttpClientWire(setup, channel),
    );
    void channel.closed.then(() => client?.close());
    return channel;
  }

  return { name: "http", flags, connect };
}

/**
 * A channel of the HTTP transport at the accepting side.
 *
 * @module
 */

import type { CloseInfo } from "@edgetuner/core/contracts";
import { Flow } from "./_flow.ts";
import { formatClose, HEADER, joinFrames, parseClose, readCount } from "./_http_body.ts";
import { type Limits, Outbox, Pause } from "./_http_common.ts";
import { refusal } from "./problem.ts";
import type { Frame, Wire, WireChannel } from "./_wire_channel.ts";

/** One channel at the accepting side. */
export class HttpSession implements Wire {
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

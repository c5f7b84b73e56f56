/**
 * One end of a channel through a broker: order, acknowledgement, credit and signs of life on top of messages that
 * may be lost or come twice, as they are when the broker or the link to it is.
 *
 * @module
 */

import { Flow } from "../_flow.ts";
import { type Frame, type Wire, WireChannel } from "../_wire_channel.ts";
import type { NatsLimits } from "./_options.ts";
import { decodePacket, encodePacket, Kind, type Packet } from "./_packet.ts";

/** What carries the messages of one channel. */
export interface PacketLink {
  /** Most bytes of a frame in a message now. */
  readonly partBytes: number;
  /** False while there is no connection to the broker: what is sent then is sent again later. */
  readonly isUp: boolean;
  /** Sends one message. */
  publish(bytes: Frame): void;
  /** Sends off what was published, and releases all that the channel had of the broker. */
  release(): Promise<void>;
}

/** A numbered message until the other side has it. */
interface Numbered {
  readonly kind: number;
  readonly seq: number;
  readonly body: Uint8Array;
}

/** An acknowledgement waits so long for something to travel with, in milliseconds. */
const ACK_DELAY_MS = 5;
/** Parts after which it waits no longer. */
const ACK_BYTES = 2 ** 18;
/** First time after which what is not acknowledged is sent again, in milliseconds; each one after it is twice as long. */
const FIRST_AGAIN_MS = 1000;
const MAX_AGAIN_MS = 8000;
/** After this nothing is sent again just because the other side misses it: it misses all that was under way. */
const AGAIN_PAUSE_MS = 200;
const MIN_LOOK_MS = 10;
const MAX_LOOK_MS = 250;

/** One end of a channel. */
export class StreamWire implements Wire {
  readonly #link: PacketLink;
  readonly #channel: WireChannel;
  readonly #limits: NatsLimits;
  readonly #flow: Flow;
  /** Parts that were not sent yet; there are any only while as much as may be is under way. */
  #waiting: Numbered[] = [];
  /** What was sent and is not acknowledged. */
  #unacked: Numbered[] = [];
  #unackedBytes = 0;
  #nextSeq = 0;
  #wanted = 0;
  #parts: Uint8Array[] = [];
  #partsBytes = 0;
  #unsaidBytes = 0;
  #ackTimer: ReturnType<typeof setTimeout> | undefined;
  #watch: ReturnType<typeof setInterval> | undefined;
  #heard = true;
  #sentAt = 0;
  #againMs = FIRST_AGAIN_MS;
  /** When the oldest message under way was sent, last. */
  #triedAt = 0;
  #signEveryMs: number;
  readonly #peerIdleMs: number;
  /** The number of the farewell. */
  #farewell: number | undefined;
  readonly #bye = Promise.withResolvers<void>();
  #over = false;

  constructor(
    link: PacketLink,
    channel: WireChannel,
    { limits, peerIdleMs }: { readonly limits: NatsLimits; readonly peerIdleMs: number },
  ) {
    this.#link = link;
    this.#channel = channel;
    this.#limits = limits;
    this.#flow = new Flow(limits.queueBytes);
    this.#peerIdleMs = peerIdleMs;
    this.#signEveryMs = Math.min(limits.pingIntervalMs, Math.max(MIN_LOOK_MS, Math.floor(peerIdleMs / 3)));
  }

  /** To be called once both sides know of the channel. */
  start(): void {
    if (this.#over) return;
    this.#say(Kind.status);
    const { idleTimeoutMs } = this.#limits;
    const lookMs = Math.min(
      MAX_LOOK_MS,
      Math.max(MIN_LOOK_MS, Math.ceil(Math.min(idleTimeoutMs, this.#peerIdleMs) / 8)),
    );
    // Looks are counted, not the clock: a process that was held up itself has had no chance to hear anything.
    let silentMs = 0;
    this.#watch = setInterval(() => {
      silentMs = this.#heard ? 0 : silentMs + lookMs;
      this.#heard = false;
      if (silentMs >= idleTimeoutMs) return this.lose(`The peer was silent for ${idleTimeoutMs} ms`);
      const now = performance.now();
      if (this.#unacked.length > 0 && now - this.#triedAt >= this.#againMs) {
        this.#againMs = Math.min(2 * this.#againMs, MAX_AGAIN_MS);
        this.resend();
      } else if (now - this.#sentAt >= this.#signEveryMs - lookMs) this.#say(Kind.status);
    }, lookMs);
  }

  ready(): boolean {
    return this.#flow.ready && this.#waiting.length === 0 && this.#unackedBytes < this.#limits.bufferBytes;
  }

  write(frame: Frame): void {
    this.#flow.sent(frame);
    const { partBytes } = this.#link;
    let at = 0;
    do {
      const body = frame.subarray(at, at + partBytes);
      at += partBytes;
      this.#number(at >= frame.byteLength ? Kind.last : Kind.part, body);
    } while (at < frame.byteLength);
    this.#sendWaiting();
  }

  taken(frame: Frame): void {
    this.#flow.taken(frame);
    if (this.#flow.due && !this.#over) this.#say(Kind.status);
  }

  async shutdown(reason: string): Promise<void> {
    await this.#leave(Kind.close, reason);
  }

  /** Takes a message of the other side. */
  receive(bytes: Uint8Array): void {
    if (this.#over) return;
    const packet = decodePacket(bytes);
    // Anyone at the broker may send here: what is no message is nobody's.
    if (packet === undefined || packet.ack > this.#nextSeq) return;
    this.#heard = true;
    this.#acknowledged(packet);
    if (packet.kind === Kind.again && performance.now() - this.#triedAt >= AGAIN_PAUSE_MS) this.resend();
    if (packet.kind === Kind.status || packet.kind === Kind.again) return;
    if (packet.seq === this.#wanted) {
      this.#wanted++;
      this.#take(packet);
    } else {
      // It came before, or one before it is missing.
      this.#say(packet.seq > this.#wanted ? Kind.again : Kind.status);
    }
  }

  /** Sends all again that is not acknowledged. */
  resend(): void {
    if (this.#over) return;
    this.#triedAt = performance.now();
    for (const numbered of this.#unacked) this.#publish(numbered);
  }

  /** Ends the channel without waiting for a peer that is gone. */
  lose(reason: string): void {
    if (this.#over) return;
    this.#channel.end({ clean: false, reason });
    this.#say(Kind.broken, { seq: this.#nextSeq, body: new TextEncoder().encode(reason) });
    this.#end();
    this.#link.release().then(() => this.#channel.settle());
  }

  #acknowledged({ ack, grant }: Packet): void {
    let known = 0;
    while (known < this.#unacked.length && this.#unacked[known]!.seq < ack) known++;
    if (known > 0) {
      for (const { body } of this.#unacked.splice(0, known)) this.#unackedBytes -= body.byteLength;
      this.#againMs = FIRST_AGAIN_MS;
      this.#triedAt = performance.now();
      this.#sendWaiting();
    }
    const raised = this.#flow.raise(grant);
    if (known > 0 || raised) this.#channel.wake();
    if (this.#farewell !== undefined && ack > this.#farewell) this.#bye.resolve();
  }

  #take({ kind, body }: Packet): void {
    if (kind === Kind.close || kind === Kind.broken) {
      this.#say(Kind.status);
      return this.#left({ clean: kind === Kind.close, reason: new TextDecoder().decode(body) });
    }
    // What the reader wants no longer is acknowledged all the same: the peer may have a farewell behind it.
    if (!this.#channel.receiving) return this.#owe(body);
    const total = this.#partsBytes + body.byteLength;
    const most = Math.min(this.#limits.maxFrameBytes, this.#channel.maxReceivedBytes);
    if (total > most) return this.#fail(`A frame must not exceed ${most} bytes: size is at least ${total}`);
    this.#partsBytes = total;
    // The broker's client reuses its memory.
    this.#parts.push(body.slice());
    if (kind === Kind.last) {
      const frame = this.#whole();
      if (!this.#flow.received(frame)) {
        return this.#fail(`More than ${this.#limits.queueBytes} bytes wait to be received`);
      }
      this.#channel.deliver(frame);
    }
    this.#owe(body);
  }

  /** The parts as one frame. */
  #whole(): Frame {
    const parts = this.#parts.splice(0);
    const frame = parts.length === 1 ? parts[0] as Frame : new Uint8Array(this.#partsBytes);
    if (parts.length > 1) {
      let at = 0;
      for (const part of parts) {
        frame.set(part, at);
        at += part.byteLength;
      }
    }
    this.#partsBytes = 0;
    return frame;
  }

  /** Acknowledges soon. */
  #owe(body: Uint8Array): void {
    if (this.#over) return;
    this.#unsaidBytes += body.byteLength + 1;
    if (this.#unsaidBytes >= ACK_BYTES) this.#say(Kind.status);
    else this.#ackTimer ??= setTimeout(() => this.#say(Kind.status), ACK_DELAY_MS);
  }

  #number(kind: number, body: Uint8Array): void {
    this.#waiting.push({ kind, seq: this.#nextSeq++, body });
  }

  #sendWaiting(): void {
    let sent = 0;
    if (this.#unacked.length === 0) this.#triedAt = performance.now();
    for (; sent < this.#waiting.length && this.#unackedBytes < this.#limits.bufferBytes; sent++) {
      const numbered = this.#waiting[sent]!;
      this.#unacked.push(numbered);
      this.#unackedBytes += numbered.body.byteLength;
      this.#publish(numbered);
    }
    this.#waiting.splice(0, sent);
  }

  #publish({ kind, seq, body }: Numbered): void {
    this.#say(kind, { seq, body });
  }

  #say(
    kind: number,
    { seq, body }: { readonly seq: number; readonly body: Uint8Array } = { seq: 0, body: new Uint8Array() },
  ): void {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    this.#unsaidBytes = 0;
    this.#sentAt = performance.now();
    if (!this.#link.isUp) return;
    this.#link.publish(encodePacket({ kind, seq, ack: this.#wanted, grant: this.#flow.grant(), body }));
  }

  #fail(reason: string): void {
    this.#channel.end({ clean: false, reason });
    this.#leave(Kind.broken, reason).then(() => this.#channel.settle());
  }

  /** Says farewell behind all that was accepted, and waits a while for the other side to have it. */
  async #leave(kind: number, reason: string): Promise<void> {
    if (this.#over) return;
    this.#farewell = this.#nextSeq;
    // As long as WebSocket allows.
    this.#number(kind, new TextEncoder().encode(reason).subarray(0, 123));
    this.#sendWaiting();
    const { cut } = this.#channel;
    const end = () => this.#bye.resolve();
    if (cut.aborted) end();
    cut.addEventListener("abort", end, { once: true });
    const timer = setTimeout(end, this.#limits.closeTimeoutMs);
    await this.#bye.promise;
    clearTimeout(timer);
    cut.removeEventListener("abort", end);
    this.#end();
    await this.#link.release();
  }

  /** The other side has left. */
  #left(info: { readonly clean: boolean; readonly reason: string }): void {
    const isLeaving = this.#farewell !== undefined;
    this.#channel.end(info);
    this.#end();
    if (!isLeaving) this.#link.release().then(() => this.#channel.settle());
  }

  #end(): void {
    this.#over = true;
    this.#bye.resolve();
    clearInterval(this.#watch);
    clearTimeout(this.#ackTimer);
    this.#waiting = [];
    this.#unacked = [];
    this.#parts = [];
  }
}

/** Makes the channel of a session. */
export function streamChannel(
  link: PacketLink,
  { peer, ...options }: { readonly peer: string; readonly limits: NatsLimits; readonly peerIdleMs: number },
): [WireChannel, StreamWire] {
  let wire: StreamWire | undefined;
  const channel = new WireChannel(
    { peer, maxFrameBytes: options.limits.maxFrameBytes },
    (channel) => wire = new StreamWire(link, channel, options),
  );
  return [channel, wire!];
}

/**
 * One end of a session: order, acknowledgement, credit and signs of life on top of messages that may be lost or
 * come twice, as they are when a connection, a broker or the link to it is.
 *
 * @module
 */

import type { CloseInfo } from "@edgetuner/core/contracts";
import { Flow } from "./_flow.ts";
import { decodePacket, encodePacket, HEADER_BYTES, Kind, type Packet } from "./_packet.ts";
import { type Frame, type Wire, WireChannel } from "./_wire_channel.ts";

/** What carries the messages of one session. */
export interface PacketLink {
  /** False while there is no connection: what is sent then is sent again later. */
  readonly isUp: boolean;
  /** False while so much waits to leave that nothing should be added; `wake` of the channel follows. */
  readonly hasRoom: boolean;
  /** What it does of itself; constant. */
  readonly traits: LinkTraits;
  /** Most bytes of a part of such a frame now. */
  partBytes(frameBytes: number): number;
  /** Sends one message. */
  publish(bytes: Frame): void;
  /** The peer was silent too long: a new connection is to be made. Absent if there is no other way to it. */
  renew?(reason: string): void;
  /** Sends off what was published, and releases all that the session had. */
  release(info: CloseInfo): Promise<void>;
}

/** What a link does of itself. */
export interface LinkTraits {
  /** Messages arrive in order while a connection holds: nothing is sent again before the next one. */
  readonly isOrdered: boolean;
  /** Only the peer can send here: a message that is none is the peer's fault. */
  readonly isPrivate: boolean;
  /** What is received belongs to the receiver; otherwise it must be copied. */
  readonly givesBytes: boolean;
  /** Each message is answered at once. */
  readonly answersAll: boolean;
  /** An acknowledgement waits so long for something to travel with, in milliseconds. */
  readonly ackDelayMs: number;
  /**
   * Without a connection for so long, in milliseconds, the session is lost. A link that cannot `renew` waits so long for
   * one that can, beyond the silence.
   */
  readonly retryTimeoutMs: number;
}

/** Limits of a session. */
export interface StreamLimits {
  readonly maxFrameBytes: number;
  readonly queueBytes: number;
  /** Bytes that may be under way without an acknowledgement. */
  readonly unackedBytes: number;
  readonly closeTimeoutMs: number;
  readonly pingIntervalMs: number;
  readonly idleTimeoutMs: number;
}

/** A numbered message until the other side has it. */
interface Numbered {
  readonly kind: number;
  readonly total: number;
  readonly seq: number;
  readonly body: Uint8Array;
}

/** A frame of which parts have come. */
interface Parts {
  readonly frame: Frame;
  filled: number;
}

/** Parts after which an acknowledgement waits no longer. */
const ACK_BYTES = 2 ** 18;
/** First time after which what is not acknowledged is sent again, in milliseconds; each one after it is twice as long. */
const FIRST_AGAIN_MS = 1000;
const MAX_AGAIN_MS = 8000;
/** After this nothing is sent again just because the other side misses it: it misses all that was under way. */
const AGAIN_PAUSE_MS = 200;
/** Pause before a sign for which there was no room is tried again, in milliseconds. */
const NO_ROOM_MS = 5;
const MIN_LOOK_MS = 10;
const MAX_LOOK_MS = 250;

/** One end of a session. */
export class StreamWire implements Wire {
  readonly #link: PacketLink;
  readonly #channel: WireChannel;
  readonly #limits: StreamLimits;
  readonly #flow: Flow;
  /** Parts that were not sent yet; there are any only while as much as may be is under way. */
  #waiting: Numbered[] = [];
  /** What was sent and is not acknowledged. */
  #unacked: Numbered[] = [];
  #unackedBytes = 0;
  #nextSeq = 0;
  #wanted = 0;
  #parts: Parts | undefined;
  #unsaidBytes = 0;
  #ackTimer: ReturnType<typeof setTimeout> | undefined;
  #watch: ReturnType<typeof setInterval> | undefined;
  #silentMs = 0;
  #sentAt = 0;
  #againMs = FIRST_AGAIN_MS;
  /** When the oldest message under way was sent, last. */
  #triedAt = 0;
  /** A new connection is there, and the other side has not said yet what it has. */
  #isAsking = false;
  /** A new connection was asked for, and nothing has come since. */
  #isRenewed = false;
  #peerIdleMs: number;
  #lostBy = "";
  /** Without a connection for so long, in milliseconds, the session is lost. */
  #lostAfterMs: number;
  /** The number of the farewell. */
  #farewell: number | undefined;
  readonly #bye = Promise.withResolvers<void>();
  #over = false;

  constructor(
    link: PacketLink,
    channel: WireChannel,
    { limits, peerIdleMs }: { readonly limits: StreamLimits; readonly peerIdleMs: number },
  ) {
    this.#link = link;
    this.#channel = channel;
    this.#limits = limits;
    this.#flow = new Flow(limits.queueBytes);
    this.#peerIdleMs = peerIdleMs;
    this.#lostAfterMs = link.traits.retryTimeoutMs;
  }

  /** True once the session has ended. */
  get isOver(): boolean {
    return this.#over;
  }

  /** Silence after which the other side gives a connection up, in milliseconds, as it says. */
  set peerIdleMs(ms: number) {
    this.#peerIdleMs = Math.max(1, ms);
  }

  get #signEveryMs(): number {
    return Math.min(this.#limits.pingIntervalMs, Math.max(MIN_LOOK_MS, Math.floor(this.#peerIdleMs / 3)));
  }

  /** To be called once both sides know of the session. */
  start(): void {
    if (this.#over) return;
    this.#say(Kind.status);
    const { idleTimeoutMs } = this.#limits;
    const lookMs = Math.min(
      MAX_LOOK_MS,
      Math.max(MIN_LOOK_MS, Math.ceil(Math.min(idleTimeoutMs, this.#peerIdleMs) / 8)),
    );
    // Looks are counted, not the clock: a process that was held up itself has had no chance to hear anything.
    this.#watch = setInterval(() => this.#look(lookMs), lookMs);
  }

  ready(): boolean {
    return this.#flow.ready && this.#waiting.length === 0 &&
      this.#unackedBytes < this.#limits.unackedBytes && this.#link.hasRoom;
  }

  write(frame: Frame): void {
    this.#flow.sent(frame);
    const total = frame.byteLength;
    const partBytes = this.#link.partBytes(total);
    let at = 0;
    do {
      const body = frame.subarray(at, at + partBytes);
      at += partBytes;
      this.#number(at >= total ? Kind.last : Kind.part, body, total);
    } while (at < total);
    this.#sendWaiting();
  }

  taken(frame: Frame): void {
    this.#flow.taken(frame);
    if (this.#flow.due && !this.#over) this.#sign();
  }

  async shutdown(reason: string): Promise<void> {
    await this.#leave(reason);
  }

  /** Takes a message of the other side. */
  receive(bytes: Uint8Array): void {
    if (this.#over) return;
    const packet = decodePacket(bytes);
    // Anyone at a broker may send: what is no message is nobody's.
    if (packet === undefined || packet.ack > this.#nextSeq) {
      if (this.#link.traits.isPrivate) this.fail("Cannot read a message of the session");
      return;
    }
    this.#silentMs = 0;
    this.#isRenewed = false;
    this.#acknowledged(packet);
    if (this.#over) return;
    if (this.#isAsking) {
      this.#isAsking = false;
      this.resend();
    }
    // Where something broke, nobody waits for what came before.
    if (packet.kind === Kind.broken) return this.#take(packet);
    const { isOrdered, answersAll } = this.#link.traits;
    if (packet.kind === Kind.status || packet.kind === Kind.again) {
      const isDue = performance.now() - this.#triedAt >= AGAIN_PAUSE_MS;
      if (packet.kind === Kind.again && !isOrdered && isDue) this.resend();
      // Timers of hidden pages are slow: what comes wakes them up.
      if (answersAll || performance.now() - this.#sentAt >= this.#signEveryMs / 2) this.#sign();
    } else if (packet.seq === this.#wanted) {
      this.#wanted++;
      this.#take(packet);
    } else {
      // It came before, or one before it is missing.
      this.#sign(packet.seq > this.#wanted ? Kind.again : Kind.status);
    }
  }

  /** Sends all again that is not acknowledged. */
  resend(): void {
    if (this.#over) return;
    this.#triedAt = performance.now();
    for (const numbered of this.#unacked) this.#publish(numbered);
  }

  /** A new connection is there: asks what the other side has, and sends the rest again. */
  goOn(): void {
    if (this.#over) return;
    this.#silentMs = 0;
    this.#isAsking = true;
    this.#say(Kind.status);
  }

  /** A way is there again over which the other side has said nothing new: all is sent again without asking. */
  goOnAtOnce(): void {
    this.#silentMs = 0;
    this.resend();
    if (!this.#over) this.#say(Kind.status);
  }

  /** The connection has gone; another one may follow, so many milliseconds later at most. */
  pause(reason: string, lostAfterMs: number = this.#link.traits.retryTimeoutMs): void {
    this.#silentMs = 0;
    this.#lostBy = reason;
    this.#lostAfterMs = lostAfterMs;
    // A sign that waits has nowhere to go.
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
  }

  /** Ends the session without waiting for a peer that is gone. */
  lose(reason: string): void {
    this.#break(reason);
  }

  /** Ends the session of a peer that broke a rule, and tells it. */
  fail(reason: string): void {
    this.#break(reason);
  }

  /** The other side has left. */
  left(info: CloseInfo): void {
    if (this.#over) return;
    const isLeaving = this.#farewell !== undefined;
    this.#channel.end(info);
    this.#end();
    if (!isLeaving) this.#link.release({ clean: true, reason: "" }).then(() => this.#channel.settle());
  }

  #break(reason: string): void {
    if (this.#over) return;
    this.#channel.end({ clean: false, reason });
    const body = farewell(reason);
    this.#say(Kind.broken, { seq: this.#nextSeq, total: 0, body });
    this.#end();
    this.#link.release({ clean: false, reason }).then(() => this.#channel.settle());
  }

  /** Looks whether the other side lives, and whether it is to hear something. */
  #look(lookMs: number): void {
    const link = this.#link;
    const { idleTimeoutMs } = this.#limits;
    this.#silentMs += lookMs;
    if (link.renew !== undefined && !link.isUp) {
      if (this.#silentMs > this.#lostAfterMs) this.lose(this.#lostBy);
      return;
    }
    if (this.#silentMs > idleTimeoutMs) {
      const reason = `The peer was silent for ${idleTimeoutMs} ms`;
      // Who is silent over a new connection too is gone.
      if (link.renew === undefined || this.#isRenewed) {
        const lateMs = link.renew === undefined ? link.traits.retryTimeoutMs : 0;
        if (this.#silentMs > idleTimeoutMs + lateMs) this.lose(reason);
        return;
      }
      this.#isRenewed = true;
      return link.renew(reason);
    }
    const now = performance.now();
    const isLate = this.#unacked.length > 0 && now - this.#triedAt >= this.#againMs;
    if (isLate && !link.traits.isOrdered) {
      this.#againMs = Math.min(2 * this.#againMs, MAX_AGAIN_MS);
      this.resend();
    } else if (now - this.#sentAt >= this.#signEveryMs - lookMs) this.#sign();
  }

  #acknowledged({ ack, grant }: Packet): void {
    let known = 0;
    while (known < this.#unacked.length && this.#unacked[known]!.seq < ack) known++;
    if (known > 0) {
      for (const { body } of this.#unacked.splice(0, known)) this.#unackedBytes -= cost(body);
      this.#againMs = FIRST_AGAIN_MS;
      this.#triedAt = performance.now();
      this.#sendWaiting();
    }
    const raised = this.#flow.raise(grant);
    if (known > 0 || raised) this.#channel.wake();
    if (this.#farewell !== undefined && ack > this.#farewell) this.#bye.resolve();
  }

  #take(packet: Packet): void {
    const { kind, body } = packet;
    if (kind === Kind.close || kind === Kind.broken) {
      this.#say(Kind.status);
      return this.left({ clean: kind === Kind.close, reason: new TextDecoder().decode(body) });
    }
    // What the reader wants no longer is acknowledged all the same: the peer may have a farewell behind it.
    if (!this.#channel.receiving) return this.#owe(body);
    const frame = this.#join(packet);
    if (this.#over) return;
    if (frame !== null) {
      if (!this.#flow.received(frame)) {
        return this.fail(`More than ${this.#limits.queueBytes} bytes wait to be received`);
      }
      this.#channel.deliver(frame);
    }
    this.#owe(body);
  }

  /** Adds a part; the frame once it is whole, else `null`. */
  #join({ kind, total, body }: Packet): Frame | null {
    const parts = this.#parts;
    if (parts === undefined) {
      const most = Math.min(this.#limits.maxFrameBytes, this.#channel.maxReceivedBytes);
      if (total > most) {
        this.fail(`A frame must not exceed ${most} bytes: size is ${total}`);
        return null;
      }
      if (kind === Kind.last && body.byteLength === total) {
        return this.#link.traits.givesBytes ? body as Frame : body.slice();
      }
    }
    const { frame, filled } = parts ?? { frame: new Uint8Array(total), filled: 0 };
    const next = filled + body.byteLength;
    const isLast = next === frame.byteLength;
    if (body.byteLength === 0 || next > frame.byteLength || isLast !== (kind === Kind.last)) {
      this.fail("The parts of a frame must add up to its size");
      return null;
    }
    frame.set(body, filled);
    this.#parts = isLast ? undefined : { frame, filled: next };
    return isLast ? frame : null;
  }

  /** Acknowledges soon. */
  #owe(body: Uint8Array): void {
    if (this.#over) return;
    const { answersAll, ackDelayMs } = this.#link.traits;
    this.#unsaidBytes += cost(body);
    if (answersAll || this.#unsaidBytes >= ACK_BYTES) this.#sign();
    else this.#ackTimer ??= setTimeout(() => this.#sign(), ackDelayMs);
  }

  /** Says what was received, as soon as there is room: a peer that does not read would only fill the memory. */
  #sign(kind: number = Kind.status): void {
    if (this.#over || !this.#link.isUp) return;
    if (this.#link.hasRoom) return this.#say(kind);
    clearTimeout(this.#ackTimer);
    this.#ackTimer = setTimeout(() => this.#sign(kind), NO_ROOM_MS);
  }

  #number(kind: number, body: Uint8Array, total = 0): void {
    this.#waiting.push({ kind, total, seq: this.#nextSeq++, body });
  }

  #sendWaiting(): void {
    let sent = 0;
    if (this.#unacked.length === 0) this.#triedAt = performance.now();
    for (; sent < this.#waiting.length && this.#unackedBytes < this.#limits.unackedBytes; sent++) {
      const numbered = this.#waiting[sent]!;
      this.#unacked.push(numbered);
      this.#unackedBytes += cost(numbered.body);
      // What the other side misses is sent first, and this with it.
      if (!this.#isAsking) this.#publish(numbered);
    }
    this.#waiting.splice(0, sent);
  }

  #publish({ kind, total, seq, body }: Numbered): void {
    this.#say(kind, { seq, total, body });
  }

  #say(
    kind: number,
    { seq, total, body }: { readonly seq: number; readonly total: number; readonly body: Uint8Array } =
      NOTHING,
  ): void {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    this.#unsaidBytes = 0;
    this.#sentAt = performance.now();
    if (!this.#link.isUp) return;
    const grant = this.#flow.grant();
    this.#link.publish(encodePacket({ kind, total, seq, ack: this.#wanted, grant, body }));
  }

  /** Says farewell behind all that was accepted, and waits a while for the other side to have it. */
  async #leave(reason: string): Promise<void> {
    if (this.#over) return;
    this.#farewell = this.#nextSeq;
    this.#number(Kind.close, farewell(reason));
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
    await this.#link.release({ clean: true, reason });
  }

  #end(): void {
    this.#over = true;
    this.#bye.resolve();
    clearInterval(this.#watch);
    clearTimeout(this.#ackTimer);
    this.#waiting = [];
    this.#unacked = [];
    this.#parts = undefined;
  }
}

const NOTHING = { seq: 0, total: 0, body: new Uint8Array() };

/** Bytes that a message takes up until it is acknowledged. */
function cost(body: Uint8Array): number {
  return body.byteLength + HEADER_BYTES;
}

/** The reason of a farewell, cut to the 123 bytes that a WebSocket allows for one. */
function farewell(reason: string): Uint8Array {
  const bytes = new Uint8Array(123);
  return bytes.subarray(0, new TextEncoder().encodeInto(reason, bytes).written);
}

/** Makes the channel of a session. */
export function streamChannel(
  link: PacketLink,
  { peer, ...options }: { readonly peer: string; readonly limits: StreamLimits; readonly peerIdleMs: number },
): [WireChannel, StreamWire] {
  let wire: StreamWire | undefined;
  const channel = new WireChannel(
    { peer, maxFrameBytes: options.limits.maxFrameBytes },
    (channel) => wire = new StreamWire(link, channel, options),
  );
  return [channel, wire!];
}

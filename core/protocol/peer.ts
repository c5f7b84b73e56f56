/**
 * A peer: a channel with an envelope around every frame, a ledger, and an order that must hold.
 *
 * Frames arrive in two lanes, the data device's and the head modules', because a device may be
 * both and neither should wait for the other. Within a lane the order is strict.
 *
 * @module
 */

import {
  ChannelClosedError,
  DeadlineError,
  HandshakeError,
  PluginError,
  ProtocolError,
  type TrainingError,
} from "../contracts/errors.ts";
import { plainText, showValue } from "../contracts/plain_text.ts";
import type { Channel, WaitOptions } from "../contracts/channel.ts";
import type { WireCodec } from "../contracts/codec.ts";
import { f32Codec } from "./codec.ts";
import {
  encodeFrame,
  type Frame,
  type FrameOf,
  measureFrame,
  OtherVersionError,
  type RawFrame,
  tensorBytes,
} from "./frame.ts";
import { ByteLedger } from "./ledger.ts";
import { CodecStreams } from "./_codec_streams.ts";
import { type Deadline, Deadlines } from "./_deadlines.ts";
import type { Expectation, Outgoing, OutgoingEnvelope, PeerOptions } from "./peer_options.ts";
import { divergenceMeta, divergenceOf, requireFiniteFrame } from "./divergence.ts";
import { type FrameKind, type Lane, MESSAGES, PROTOCOL_VERSION, type Side } from "./messages.ts";

/** Most frames that may wait in a lane. */
const MAX_QUEUED_FRAMES = 64;
/** Largest frame before the welcome, and most memory of those that wait. */
const MAX_HANDSHAKE_BYTES = 16_384;
const MAX_HANDSHAKE_QUEUE_BYTES = 65_536;

/** A frame that waits, and the bytes of memory that it takes. */
interface Queued {
  readonly frame: Frame;
  readonly bytes: number;
}

interface Waiter {
  resolve(frame: Frame): void;
  reject(error: unknown): void;
}

/** Time a peer has spent, in milliseconds. */
export interface PeerTimes {
  /** Encoding and decoding frames. */
  codecMs: number;
  /** Handing frames to the transport, back-pressure included. */
  sendMs: number;
}

/** One end of a channel. */
export class Peer implements AsyncDisposable {
  /** Name for messages to people. */
  name: string;
  /** Run that frames belong to; set by the handshake. */
  run = "";
  /** Codec of the run; set by the handshake. */
  codec: WireCodec = f32Codec();
  /** What was sent and received. */
  readonly ledger: ByteLedger;
  /** Time spent. */
  readonly times: PeerTimes = { codecMs: 0, sendMs: 0 };
  readonly #channel: Channel;
  /** Longest wait for a frame, in milliseconds. */
  timeoutMs: number;
  #signal: AbortSignal | undefined;
  readonly #queues: Record<Lane, Queued[]> = { control: [], data: [], heads: [] };
  readonly #queuedBytes: Record<Lane, number> = { control: 0, data: 0, heads: 0 };
  readonly #maxQueuedBytes: number;
  readonly #waiters: Record<Lane, Waiter[]> = { control: [], data: [], heads: [] };
  readonly #streams = new CodecStreams();
  #sent = 0;
  #received = 0;
  #failure: unknown = null;
  #ended = false;
  #isSilent = false;
  #hasEnded = false;
  #sending: Promise<void> = Promise.resolve();
  readonly #reading: Promise<void>;
  readonly #remote: Side | undefined;
  readonly #onPause: ((paused: boolean) => void) | undefined;
  readonly #deadlines = new Deadlines();
  #paused = false;
  /** False until the welcome was sent or received. */
  #welcomed: boolean;
  /** What the other side understands; its own version once it has shown another one. */
  #version = PROTOCOL_VERSION;

  /** Starts reading frames from the channel, which it owns from now on. */
  constructor(channel: Channel, options: PeerOptions = {}) {
    this.#channel = channel;
    this.name = channel.peer;
    this.timeoutMs = options.timeoutMs ?? 120_000;
    this.#signal = options.signal;
    this.ledger = options.ledger ?? new ByteLedger();
    this.#maxQueuedBytes = options.maxQueuedBytes ?? 2 ** 28;
    this.#remote = options.remote;
    this.#onPause = options.onPause?.bind(options);
    this.#welcomed = options.remote === undefined;
    // A device says little before it is let in, so that nothing large needs to be taken from it. A server's
    // first frames may follow its welcome closely.
    if (options.remote === "device") channel.limitReceived?.(MAX_HANDSHAKE_BYTES);
    this.#reading = this.#read();
  }

  /** True once the peer let a wait reach its limit: it need not be waited for again. */
  get isSilent(): boolean {
    return this.#isSilent;
  }

  /** True once the other side has said that the run is over. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** Rejects when the peer has failed or its channel has ended; for racing against other waits. */
  get closed(): Promise<unknown> {
    return this.#channel.closed;
  }

  /**
   * Sends a frame. Frames of one peer leave in the order of the calls.
   *
   * @throws {ChannelClosedError} If the channel is closed.
   * @throws {RangeError} If the codec cannot write a tensor, such as one that holds NaN.
   * @throws {PluginError} If the codec returned something its contract does not allow.
   */
  send<K extends FrameKind>(
    kind: K,
    ...[outgoing]: Record<never, never> extends Outgoing<K> ? [Outgoing<K>?] : [Outgoing<K>]
  ): Promise<void> {
    const { step = 0, layer = 0, microBatch = 0, meta = {}, tensors = [] } = (outgoing ?? {}) as
      & OutgoingEnvelope
      & { readonly meta?: Readonly<Record<string, unknown>> };
    return this.#send({ kind, run: this.run, sequence: 0, step, layer, microBatch, meta, tensors });
  }

  #send(outgoing: RawFrame): Promise<void> {
    // A refusal also goes to a peer whose first frame cannot be taken: it says why.
    if (this.#failure !== null && outgoing.kind !== "refuse") return Promise.reject(this.#failure);
    const started = performance.now();
    const { kind, layer, microBatch = 0, meta } = outgoing;
    let { tensors } = outgoing;
    if (isCoded(kind)) {
      try {
        tensors = tensors.map((t, i) =>
          this.#streams.encode(this.codec, t, { direction: "sent", kind, layer, microBatch, tensor: i })
        );
      } catch (error) {
        return Promise.reject(error);
      }
    }
    if (kind === "welcome") {
      this.#welcomed = true;
      this.#channel.limitReceived?.(Infinity);
    }
    const plain = "reason" in meta ? { ...meta, reason: plainText(String(meta.reason)) } : meta;
    const frame: RawFrame = { ...outgoing, sequence: this.#sent++, meta: plain, tensors };
    const bytes = encodeFrame(frame, this.#version);
    const encoded = performance.now();
    this.times.codecMs += encoded - started;
    this.ledger.record(kind, "sent", tensorBytes(frame.tensors), bytes.length);
    const { signal, clear } = this.#deadline();
    const sent = this.#sending.then(() => this.#channel.send(bytes, { signal })).finally(clear).then(
      () => {
        this.times.sendMs += performance.now() - encoded;
      },
      (error) => {
        throw this.#explain(error, `sending "${kind}"`);
      },
    );
    this.#sending = sent.catch(() => {});
    return sent;
  }

  /**
   * Waits for the next frame of a kind. Any other frame that comes in its lane is an error.
   *
   * @throws {ProtocolError} If the peer broke the protocol.
   * @throws {ChannelClosedError} If the channel ended.
   * @throws {DeadlineError} If nothing came within the limit.
   */
  async receive<K extends FrameKind>(kind: K, expected: Expectation = {}): Promise<FrameOf<K>> {
    const frame = await this.next(MESSAGES[kind].lane, `"${kind}"`);
    if (frame.kind === "end") {
      throw new ChannelClosedError(
        `Cannot go on with ${this.name} as the run must not have ended: ${frame.meta.reason || "it has"}`,
      );
    }
    return this.check(frame, kind, expected);
  }

  /** Waits for the next frame of a lane, whatever its kind. `what` is named in errors. */
  next(lane: Lane, what: string): Promise<Frame> {
    const queued = this.#queues[lane].shift();
    if (queued !== undefined) {
      this.#queuedBytes[lane] -= queued.bytes;
      return Promise.resolve(queued.frame);
    }
    if (this.#failure !== null) return Promise.reject(this.#failure);
    return new Promise<Frame>((resolve, reject) => {
      const waiter: Waiter = {
        resolve: (frame) => {
          clear();
          resolve(frame);
        },
        reject: (error) => {
          clear();
          reject(error);
        },
      };
      const onAbort = () => {
        const waiters = this.#waiters[lane];
        const at = waiters.indexOf(waiter);
        if (at >= 0) waiters.splice(at, 1);
        waiter.reject(this.#explain(signal.reason, `waiting for ${what}`));
      };
      const { signal, clear } = this.#deadline();
      if (signal.aborted) return onAbort();
      signal.addEventListener("abort", onAbort);
      this.#waiters[lane].push(waiter);
    });
  }

  /**
   * Checks a frame against what must come.
   *
   * @returns The frame, with all that a codec wrote read back to floats.
   * @throws {ProtocolError} If it is another kind, step, layer, micro-batch, element type, codec or shape, or not what the codec writes; the peer is closed.
   * @throws {TrainingError} If a number of its tensors is not finite; whoever runs the training tells all devices.
   */
  check<K extends FrameKind>(next: Frame, kind: K, expected: Expectation): FrameOf<K> {
    const refuse = (rule: string): never => {
      const error = new ProtocolError(`Cannot go on with ${this.name} as ${rule}`);
      this.#fail(error);
      throw error;
    };
    const frame = ofKind(next, kind);
    if (frame === null) return refuse(`the next frame must be "${kind}": it is "${next.kind}"`);
    if (expected.step !== undefined && frame.step !== expected.step) {
      refuse(`"${kind}" must be of step ${expected.step}: it is of step ${frame.step}`);
    }
    if (expected.layer !== undefined && frame.layer !== expected.layer) {
      refuse(`"${kind}" must be of layer ${expected.layer}: it is of layer ${frame.layer}`);
    }
    const { layer = 0, microBatch = 0 } = expected;
    if ((frame.microBatch ?? 0) !== microBatch) {
      refuse(`"${kind}" must be of micro-batch ${microBatch}: it is of micro-batch ${frame.microBatch ?? 0}`);
    }
    const as = MESSAGES[kind].tensors?.as;
    const dtype = as === "codec" ? this.codec.name : as;
    const other = frame.tensors.find((t) => t.dtype !== dtype);
    if (other !== undefined) refuse(`the tensors of "${kind}" must be ${dtype}: one is ${other.dtype}`);
    if (expected.shapes !== undefined) {
      const shapes = expected.shapes.map((s) => `[${s.map((n) => n ?? "any")}]`).join(" ");
      const actual = frame.tensors.map((t) => `[${t.shape}]`).join(" ");
      const fits = frame.tensors.length === expected.shapes.length && expected.shapes.every((shape, i) => {
        const have = frame.tensors[i]!.shape;
        return have.length === shape.length && shape.every((n, k) => n === null || n === have[k]);
      });
      if (!fits) refuse(`the tensors of "${kind}" must be ${shapes}: they are ${actual}`);
    }
    if (as === "f32") requireFiniteFrame(frame, this.name, this.#remote);
    if (as !== "codec") return frame;
    const started = performance.now();
    const tensors = frame.tensors.map((tensor, i) => {
      try {
        return this.#streams.decode(this.codec, tensor, {
          direction: "received",
          kind,
          layer,
          microBatch,
          tensor: i,
        });
      } catch (cause) {
        // Its own codec failed, not the peer.
        if (cause instanceof PluginError) throw cause;
        return refuse(
          `"${kind}" must be readable with codec "${this.codec.name}": ${(cause as Error).message}`,
        );
      }
    });
    const decoded = { ...frame, tensors };
    requireFiniteFrame(decoded, this.name, this.#remote);
    this.times.codecMs += performance.now() - started;
    return decoded;
  }

  /** Tells the other side that training cannot go on: its waits reject with the same error. */
  async sendDivergence(error: TrainingError): Promise<void> {
    await this.send("end", { meta: divergenceMeta(error, this.name) }).catch(() => {});
  }

  /** Closes the peer with a protocol error; waits reject with it. */
  failWith(error: ProtocolError): void {
    this.#fail(error);
  }

  /** Lets what is sent and waited for outlive the signal of the options: for last words after an abort. */
  outliveSignal(): void {
    this.#signal = undefined;
  }

  /**
   * Sends what is queued, then closes the channel.
   *
   * @param reason Reason in words.
   * @param options Once the signal aborts, closing waits for the peer no longer.
   */
  async close(reason = "", { signal }: WaitOptions = {}): Promise<void> {
    this.#ended = true;
    if (signal !== undefined) {
      const cut = () => void this.#channel.close(reason, { signal }).catch(() => {});
      if (signal.aborted) cut();
      else signal.addEventListener("abort", cut, { once: true });
      this.#channel.closed.finally(() => signal.removeEventListener("abort", cut));
    }
    await this.#sending;
    await this.#channel.close(reason, signal && { signal });
    await this.#reading;
    // Whatever ended the reading, nothing more will come for those who still wait.
    this.#fail(
      new ChannelClosedError(
        `Cannot go on with ${this.name} as the channel must stay open: it was closed here`,
      ),
    );
  }

  /** As `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #deadline(): Deadline {
    return this.#deadlines.begin(this.timeoutMs, this.#signal);
  }

  #explain(error: unknown, action: string): unknown {
    if (error instanceof DOMException && error.name === "TimeoutError") {
      this.#isSilent = true;
      return new DeadlineError(
        `Cannot go on with ${this.name} as ${action} must take at most ${this.timeoutMs} ms: it took longer`,
      );
    }
    return error;
  }

  #fail(error: unknown): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    for (const lane of ["control", "data", "heads"] as const) {
      for (const waiter of this.#waiters[lane].splice(0)) waiter.reject(error);
    }
    // Of a first frame that cannot be taken the peer is told why: whoever waits for it does, and closes.
    if (!this.#welcomed && this.#received === 0 && error instanceof Error && !this.#ended) return;
    this.#channel.close(error instanceof Error ? plainText(error.message, 100) : "").catch(() => {});
  }

  #enqueue(lane: Lane, queued: Queued): void {
    const queue = this.#queues[lane];
    const bytes = this.#queuedBytes[lane] + queued.bytes;
    const most = this.#welcomed ? this.#maxQueuedBytes : MAX_HANDSHAKE_QUEUE_BYTES;
    if (queue.length === MAX_QUEUED_FRAMES || (queue.length > 0 && bytes > most)) {
      throw new ProtocolError(
        `Cannot go on with ${this.name} as at most ${MAX_QUEUED_FRAMES} frames and ${most} bytes may be ahead: ${
          queue.length + 1
        } frames and ${bytes} bytes are`,
      );
    }
    queue.push(queued);
    this.#queuedBytes[lane] = bytes;
  }

  async #read(): Promise<void> {
    try {
      for (;;) {
        const bytes = await this.#channel.receive();
        if (bytes === null) break;
        const { frame, cost } = this.#open(bytes);
        this.#requireOrder(frame);
        if (frame.kind === "refuse") {
          throw new HandshakeError(`${this.name} refused: ${frame.meta.reason || "no reason given"}`);
        }
        if ((frame.kind === "paused") !== this.#paused) {
          this.#paused = !this.#paused;
          this.#onPause?.(this.#paused);
        }
        if (frame.kind === "paused") {
          this.#deadlines.restart();
          continue;
        }
        // The run is over for everyone: whoever waits gets the error, on this side as on that one.
        if (frame.kind === "end" && frame.meta.diverged === true) throw divergenceOf(frame.meta);
        if (frame.kind === "end") this.#hasEnded = true;
        // The end of a run may come at any moment: it reaches whoever waits, in every lane.
        const lanes: Lane[] = frame.kind === "end"
          ? ["control", "data", "heads"]
          : [MESSAGES[frame.kind].lane];
        for (const lane of lanes) {
          const waiter = this.#waiters[lane].shift();
          if (waiter !== undefined) waiter.resolve(frame);
          else this.#enqueue(lane, { frame, bytes: cost });
        }
      }
      const { reason } = await this.#channel.closed;
      this.#fail(
        new ChannelClosedError(
          `Cannot go on with ${this.name} as the channel must stay open: it was closed${
            reason ? ` (${plainText(reason)})` : ""
          }`,
        ),
      );
    } catch (error) {
      if (!this.#ended) this.#fail(error);
    }
  }

  /** Decodes a frame, if the other side may send it now. */
  #open(bytes: Uint8Array): { readonly frame: Frame; readonly cost: number } {
    const refuse = (rule: string): never => {
      throw new ProtocolError(`Cannot go on with ${this.name} as ${rule}`);
    };
    if (!this.#welcomed && bytes.length > MAX_HANDSHAKE_BYTES) {
      refuse(
        `frames before the welcome must have at most ${MAX_HANDSHAKE_BYTES} bytes: one has ${bytes.length}`,
      );
    }
    const started = performance.now();
    let read: ReturnType<typeof measureFrame>;
    try {
      read = measureFrame(bytes);
    } catch (error) {
      if (error instanceof OtherVersionError) this.#version = error.version ?? PROTOCOL_VERSION;
      if (!(error instanceof ProtocolError)) throw error;
      // "Cannot read frame as ...": say whose it is.
      throw new ProtocolError(error.message.replace(" as ", ` of ${this.name} as `), { cause: error });
    }
    this.times.codecMs += performance.now() - started;
    const { frame } = read;
    const { kind } = frame;
    const { from, lane } = MESSAGES[kind];
    if (this.#remote !== undefined && !(from as readonly Side[]).includes(this.#remote)) {
      refuse(`"${kind}" must not come from a ${this.#remote}: it came`);
    }
    if (!this.#welcomed && lane !== "control") {
      refuse(`the welcome must have been said before "${kind}": it has not`);
    }
    if (kind === "welcome") this.#welcomed = true;
    this.ledger.record(kind, "received", tensorBytes(frame.tensors), bytes.length);
    return read;
  }

  /** No frame may be missing, come twice or be of another run. */
  #requireOrder(frame: Frame): void {
    if (frame.sequence !== this.#received) {
      throw new ProtocolError(
        `Cannot go on with ${this.name} as frame ${this.#received} must come next: it is frame ${frame.sequence}`,
      );
    }
    if (this.run !== "" && frame.run !== this.run) {
      throw new ProtocolError(
        `Cannot go on with ${this.name} as frames must belong to run "${this.run}": this one belongs to ${
          showValue(frame.run)
        }`,
      );
    }
    this.#received++;
  }
}

/** True if a kind's tensors are written with the codec of the run. */
function isCoded(kind: FrameKind): boolean {
  return MESSAGES[kind].tensors?.as === "codec";
}

function ofKind<K extends FrameKind>(frame: Frame, kind: K): FrameOf<K> | null {
  return frame.kind === kind ? frame as FrameOf<K> : null;
}

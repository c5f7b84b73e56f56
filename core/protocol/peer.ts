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
import { CodecStreams, type KeptStreams } from "./_codec_streams.ts";
import { type Deadline, Deadlines } from "./_deadlines.ts";
import { brokenRule } from "./_expected.ts";
import { LaneQueue, type Waiter } from "./_lane.ts";
import type { Expectation, Outgoing, OutgoingEnvelope, PeerOptions } from "./peer_options.ts";
import { divergenceMeta, divergenceOf, requireFiniteFrame } from "./divergence.ts";
import { type FrameKind, type Lane, MESSAGES, PROTOCOL_VERSION, type Side } from "./messages.ts";
import { oneCodec, type RunCodecs } from "./run_codecs.ts";
import { StepRestart } from "./step_restart.ts";

/** Largest frame before the welcome, and most memory of those that wait. */
const MAX_HANDSHAKE_BYTES = 16_384;
const MAX_HANDSHAKE_QUEUE_BYTES = 65_536;

export type { KeptStreams };

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
  /** Codecs of the run; set by the handshake. */
  codecs: RunCodecs = oneCodec(f32Codec());
  /** What was sent and received. */
  readonly ledger: ByteLedger;
  /** Time spent. */
  readonly times: PeerTimes = { codecMs: 0, sendMs: 0 };
  readonly #channel: Channel;
  /** Longest wait for a frame, in milliseconds. */
  timeoutMs: number;
  #signal: AbortSignal | undefined;
  readonly #lanes: Readonly<Record<Lane, LaneQueue>> = {
    control: new LaneQueue(),
    data: new LaneQueue(),
    heads: new LaneQueue(),
  };
  readonly #maxQueuedBytes: number;
  readonly #streams = new CodecStreams();
  #sent = 0;
  #received = 0;
  #failure: unknown = null;
  #ended = false;
  #isSilent = false;
  #hasEnded = false;
  #hasLeft = false;
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

  /** True once the other side has said that it leaves. */
  get hasLeft(): boolean {
    return this.#hasLeft;
  }

  /** Why nothing more will come; `null` while something may. */
  get failure(): unknown {
    return this.#failure;
  }

  /** What a codec with a state goes back to if a step begins again: what its streams of a lane hold now. */
  keepStreams(lane: Lane): KeptStreams {
    return this.#streams.keep(lane);
  }

  /** All who wait for a frame of a lane wait no longer: the step will begin again. */
  interrupt(lane: Lane): void {
    this.#lanes[lane].reject(new StepRestart());
  }

  /**
   * A step begins again: frames of a lane that came or will come of before are dropped, and those that are sent have
   * the number of the attempt.
   *
   * @param lane The lane.
   * @param attempt Number of the attempt, which only grows.
   * @param kept What the codec goes back to.
   */
  beginAttempt(lane: Lane, attempt: number, kept: KeptStreams): void {
    this.interrupt(lane);
    this.#lanes[lane].begin(attempt);
    this.#streams.goBack(lane, kept);
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
        const codec = this.codecs.of(kind);
        tensors = tensors.map((t, i) =>
          this.#streams.encode(codec, t, { direction: "sent", kind, layer, microBatch, tensor: i })
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
    const { attempt } = this.#lanes[MESSAGES[kind].lane];
    const frame: RawFrame = { ...outgoing, sequence: this.#sent++, attempt, meta: plain, tensors };
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
    if (frame.kind === "end") throw endedError(this.name, frame.meta.reason);
    return this.check(frame, kind, expected);
  }

  /**
   * Waits for the next frame of a lane, whatever its kind. `what` is named in errors; `timeoutMs` is the limit where
   * another one holds than for all waits.
   */
  next(lane: Lane, what: string, timeoutMs: number = this.timeoutMs): Promise<Frame> {
    const queue = this.#lanes[lane];
    const queued = queue.take();
    if (queued !== null) return Promise.resolve(queued);
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
        queue.forget(waiter);
        waiter.reject(this.#explain(signal.reason, `waiting for ${what}`, timeoutMs));
      };
      const { signal, clear } = this.#deadline(timeoutMs);
      if (signal.aborted) return onAbort();
      signal.addEventListener("abort", onAbort);
      queue.wait(waiter);
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
    const as = MESSAGES[kind].tensors?.as;
    const codec = this.codecs.of(kind);
    const rule = brokenRule(frame, expected, as === "codec" ? codec.name : as);
    if (rule !== null) return refuse(rule);
    const { layer = 0, microBatch = 0 } = expected;
    if (as === "f32") requireFiniteFrame(frame, this.name, this.#remote);
    if (as !== "codec") return frame;
    const started = performance.now();
    const tensors = frame.tensors.map((tensor, i) => {
      try {
        return this.#streams.decode(codec, tensor, {
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
          `"${kind}" must be readable with codec "${codec.name}": ${(cause as Error).message}`,
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

  /** Closes the peer with a protocol error, or as it is too late; waits reject with it. */
  failWith(error: ProtocolError | DeadlineError): void {
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

  #deadline(timeoutMs = this.timeoutMs): Deadline {
    return this.#deadlines.begin(timeoutMs, this.#signal);
  }

  #explain(error: unknown, action: string, timeoutMs = this.timeoutMs): unknown {
    if (error instanceof DOMException && error.name === "TimeoutError") {
      this.#isSilent = true;
      return new DeadlineError(
        `Cannot go on with ${this.name} as ${action} must take at most ${timeoutMs} ms: it took longer`,
      );
    }
    return error;
  }

  #fail(error: unknown): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    for (const lane of Object.values(this.#lanes)) lane.reject(error);
    // Of a first frame that cannot be taken the peer is told why: whoever waits for it does, and closes.
    if (!this.#welcomed && this.#received === 0 && error instanceof Error && !this.#ended) return;
    this.#channel.close(error instanceof Error ? plainText(error.message, 100) : "").catch(() => {});
  }

  async #read(): Promise<void> {
    try {
      for (;;) {
        const bytes = await this.#channel.receive();
        if (bytes === null) break;
        const { frame, cost } = this.#open(bytes);
        // Who leaves may have broken off in the middle of a frame.
        if (frame.kind === "leave") {
          this.#hasLeft = true;
          throw new ChannelClosedError(
            `Cannot go on with ${this.name} as it must stay in the run: it left (${frame.meta.reason})`,
          );
        }
        this.#requireOrder(frame);
        if (frame.kind === "refuse") {
          throw new HandshakeError(`${this.name} refused: ${frame.meta.reason || "no reason given"}`);
        }
        if ((frame.kind === "paused" && frame.meta.others !== true) !== this.#paused) {
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
        const most = this.#welcomed ? this.#maxQueuedBytes : MAX_HANDSHAKE_QUEUE_BYTES;
        for (const lane of lanes) this.#lanes[lane].put(frame, cost, { most, name: this.name });
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
    const { attempt: known } = this.#lanes[MESSAGES[frame.kind].lane];
    if (this.#remote === "device" && (frame.attempt ?? 0) > known) {
      throw new ProtocolError(
        `Cannot go on with ${this.name} as "${frame.kind}" must be of attempt ${known} at most: it is of attempt ${frame.attempt}`,
      );
    }
    this.#received++;
  }
}

/** The error of whoever needs a run that has ended. */
export function endedError(name: string, reason: string): ChannelClosedError {
  return new ChannelClosedError(
    `Cannot go on with ${name} as the run must not have ended: ${reason || "it has"}`,
  );
}

/** True if a kind's tensors are written with the codec of the run. */
function isCoded(kind: FrameKind): boolean {
  return MESSAGES[kind].tensors?.as === "codec";
}

function ofKind<K extends FrameKind>(frame: Frame, kind: K): FrameOf<K> | null {
  return frame.kind === kind ? frame as FrameOf<K> : null;
}

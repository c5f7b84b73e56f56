/**
 * Compute time in virtual time: each party has a timeline, and what it computes for a frame moves
 * its timeline on before the frame leaves. Only the headers of frames are looked at; the sessions
 * know nothing of it.
 *
 * @module
 */

import type { Channel } from "@edgetuner/core/contracts";
import {
  decodeFrame,
  describeEmbedding,
  describePass,
  type DeviceHeads,
  type Exchange,
  exchangesOf,
  type Frame,
  type FrameOf,
  type PassDescription,
  type SplitShape,
  splitShape,
  type StepMessage,
  type StepWork,
} from "@edgetuner/core";
import {
  type ComputeModel,
  type PartyCompute,
  type Segment,
  segmentMs,
  segmentOf,
  type StepShape,
} from "./compute.ts";
import { type Clock, until } from "./clock.ts";

/** What a party does around a frame. */
export interface FrameWork {
  /** Before the frame leaves, or as soon as it has arrived. @default {[]} */
  readonly before?: readonly Segment[];
  /** From when the frame has left, while answers are waited for. @default {[]} */
  readonly after?: readonly Segment[];
}

/**
 * Work that comes with a kind of frame, for protocols of your own; for a kind of the step protocol
 * instead of its usual work, unless it is `null`. A device's answers leave when all its work so far is
 * done.
 */
export type FrameRule = (
  frame: Frame,
  context: {
    /** Number of the device that does the work; `null` for the edge server. */
    readonly device: number | null;
    /**
     * Whether the frame is sent or received by whoever does the work. What the edge server sends to several
     * devices counts once: the first frame of this kind, layer and micro-batch to each of them, then the second, and
     * so on.
     */
    readonly direction: "sent" | "received";
    /** Shapes of the step. */
    readonly size: StepShape;
  },
) => FrameWork | null;

/** What all parties of a network share. */
export interface TimelineSettings {
  readonly clock: Clock;
  readonly compute: ComputeModel;
  readonly size: Omit<StepShape, "length">;
  readonly rules: Readonly<Record<string, FrameRule>>;
  /** False if the edge server computes nothing while it waits, as with the run setting of that name. */
  readonly overlap: boolean;
}

/** When a party is free again, and how long it has computed: one thing after the other. */
class Timeline {
  readonly #clock: Clock;
  readonly #slowness: (atMs: number) => number;
  freeAt = 0;
  busyMs = 0;

  constructor(clock: Clock, slowness: (atMs: number) => number) {
    this.#clock = clock;
    this.#slowness = slowness;
  }

  /** The party's time: not before it has done its work. */
  now(): number {
    return Math.max(this.#clock.now(), this.freeAt);
  }

  /** Does work as soon as possible, but not before a time. Returns when it is done. */
  work(party: PartyCompute, segments: readonly Segment[], fromMs = this.#clock.now()): number {
    for (const segment of segments) {
      const start = Math.max(this.freeAt, fromMs);
      const ms = segmentMs(party, segment) * this.#slowness(start);
      this.freeAt = start + ms;
      this.busyMs += ms;
    }
    return Math.max(this.freeAt, fromMs);
  }
}

function frameOf(bytes: Uint8Array): Frame | null {
  try {
    return decodeFrame(bytes);
  } catch {
    return null; // not for the timelines to complain about
  }
}

/** A channel whose frames leave when the party has done its work. */
function timed(
  inner: Channel,
  clock: Clock,
  rules: { departs(frame: Frame): number; arrives(frame: Frame): void },
): Channel {
  let last: Promise<unknown> = Promise.resolve();
  return {
    peer: inner.peer,
    closed: inner.closed,
    send(bytes, options) {
      const frame = frameOf(bytes);
      const departsAt = frame === null ? clock.now() : rules.departs(frame);
      const sent = last.then(async () => {
        await until(clock, departsAt, options?.signal);
        await inner.send(bytes, options);
      });
      last = sent.catch(() => {});
      return sent;
    },
    async receive(options) {
      const bytes = await inner.receive(options);
      const frame = bytes === null ? null : frameOf(bytes);
      if (frame !== null) rules.arrives(frame);
      return bytes;
    },
    close: (reason) => inner.close(reason),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  };
}

/** Shapes of a run, as its welcome says them. */
function runOf({ meta: { model, settings, statistics } }: FrameOf<"welcome">): SplitShape {
  return splitShape(model, settings, { statistics: statistics.length });
}

/** Describes the pass that mask frames begin, for those of the devices that are given. */
function passOf(
  run: SplitShape,
  { meta }: FrameOf<"mask">,
  devices: readonly DeviceHeads[],
): PassDescription {
  const { mode, lowest, rows, part } = meta;
  return describePass({
    run,
    mode,
    lowest,
    devices,
    microBatches: rows.map((rows) => ({ rows })),
    ...(part === undefined ? {} : { accumulation: { index: part[0], count: part[1], firstRow: part[2] } }),
  });
}

/** The heads that a mask frame is for. */
function headsOf({ tensors }: FrameOf<"mask">): DeviceHeads {
  const { shape, data } = tensors[0]!;
  return { count: shape[1]!, mask: data as Uint8Array };
}

/** Where a frame belongs in a pass. */
function keyOf(
  { kind, layer, microBatch = 0 }: Pick<StepMessage, "kind" | "layer"> & { microBatch?: number },
) {
  return `${kind} ${layer} ${microBatch}`;
}

/** Where an exchange is: in which flow, and at which place of it. */
interface Position {
  readonly flow: readonly Exchange[];
  readonly place: number;
}

/** A pass of the edge server, of one attempt of a step. */
class EdgePass {
  /** Channels that its masks have gone to. */
  readonly #channels = new Set<Channel>();
  readonly #first: FrameOf<"mask">;
  readonly #run: SplitShape;
  readonly #devices: DeviceHeads[] = [];
  #positions: ReadonlyMap<string, Position> | null = null;
  /** Places of flows up to which the work is done. */
  readonly #done = new Map<readonly Exchange[], number>();

  constructor(run: SplitShape, first: FrameOf<"mask">) {
    this.#run = run;
    this.#first = first;
  }

  /**
   * True if a mask belongs to the pass: devices may have come and gone since the one before. All masks leave before
   * anything else does.
   */
  takes(channel: Channel, { step, attempt }: FrameOf<"mask">): boolean {
    const isSame = step === this.#first.step && attempt === this.#first.attempt;
    return isSame && this.#positions === null && !this.#channels.has(channel);
  }

  /** Takes in that a device's mask is sent; returns the work before the first of them. */
  mask(channel: Channel, frame: FrameOf<"mask">): readonly StepWork[] {
    this.#channels.add(channel);
    this.#devices.push(headsOf(frame));
    return passOf(this.#run, this.#first, []).begin.work;
  }

  /** The edge server's work around a frame; `null` if it is none of the pass. */
  work(frame: Frame): { readonly before: readonly StepWork[]; readonly after: readonly StepWork[] } | null {
    this.#positions ??= this.#read();
    const position = this.#positions.get(keyOf(frame));
    if (position === undefined) return null;
    const { flow, place } = position;
    const from = this.#done.get(flow) ?? 0;
    this.#done.set(flow, Math.max(from, place + 1));
    // What a rule took the place of is made up for.
    const skipped = flow.slice(from, place).flatMap(({ work, meanwhile }) => [...work, ...meanwhile]);
    const { work, meanwhile } = flow[place]!;
    return { before: [...skipped, ...work], after: meanwhile };
  }

  #read(): ReadonlyMap<string, Position> {
    const positions = new Map<string, Position>();
    const { flows, clip } = passOf(this.#run, this.#first, this.#devices);
    for (const flow of clip === null ? flows : [...flows, [clip]]) {
      flow.forEach(({ messages }, place) => positions.set(keyOf(messages[0]!), { flow, place }));
    }
    return positions;
  }
}

/** The edge server: one timeline for the channels of all devices. */
export class EdgeParty {
  readonly #settings: TimelineSettings;
  readonly #timeline: Timeline;
  #length = 1;
  #passes = 0;
  #run: SplitShape | null = null;
  #pass: EdgePass | null = null;
  /** Without overlap: what is to be done once the answers are here. */
  #postponed: readonly Segment[] = [];
  /** When what goes to several devices at once leaves, by what it is; only the latest turn. */
  readonly #departures = new Map<string, { readonly turn: number; readonly atMs: number }>();

  constructor(settings: TimelineSettings) {
    this.#settings = settings;
    this.#timeline = new Timeline(settings.clock, () => 1);
  }

  now(): number {
    return this.#timeline.now();
  }

  get busyMs(): number {
    return this.#timeline.busyMs;
  }

  wrap(channel: Channel): Channel {
    const sent = new Map<string, number>();
    return timed(channel, this.#settings.clock, {
      arrives: (frame) => {
        if (frame.kind === "embedding") this.#length = frame.tensors.at(-1)?.shape[1] ?? 1;
        this.#timeline.work(this.#settings.compute.edgeServer, this.#ruled(frame, "received")?.before ?? []);
      },
      departs: (frame) => {
        const key = keyOf(frame);
        const ruled = this.#ruled(frame, "sent");
        if (ruled !== null) {
          const turn = (sent.get(key) ?? 0) + 1;
          sent.set(key, turn);
          return this.#departsOnce(key, turn, [ruled.before ?? [], ruled.after ?? []]);
        }
        if (frame.kind === "welcome") this.#run = runOf(frame);
        let work: ReturnType<EdgePass["work"]> = null;
        if (frame.kind === "mask" && this.#run !== null) {
          if (this.#pass?.takes(channel, frame) !== true) {
            this.#passes++;
            this.#pass = new EdgePass(this.#run, frame);
          }
          work = { before: this.#pass!.mask(channel, frame), after: [] };
        } else work = this.#pass?.work(frame) ?? null;
        // Handshake and end are no work.
        if (work === null) return this.#settings.clock.now();
        return this.#departsOnce(key, this.#passes, [
          this.#segments(work.before),
          this.#segments(work.after),
        ]);
      },
    });
  }

  /** When a frame leaves that may go to several devices: what comes before it is done once in each turn. */
  #departsOnce(
    key: string,
    turn: number,
    [before, meanwhile]: readonly [before: readonly Segment[], meanwhile: readonly Segment[]],
  ): number {
    const { clock, compute } = this.#settings;
    const known = this.#departures.get(key);
    if (known !== undefined && known.turn >= turn) return Math.max(known.atMs, clock.now());
    const atMs = this.#timeline.work(compute.edgeServer, [...this.#postponed, ...before]);
    if (this.#settings.overlap) this.#timeline.work(compute.edgeServer, meanwhile);
    else this.#postponed = meanwhile;
    this.#departures.set(key, { turn, atMs });
    return atMs;
  }

  #segments(work: readonly StepWork[]): Segment[] {
    const context = { size: { ...this.#settings.size, length: this.#length }, counted: (n: number) => n };
    return work.map((one) => segmentOf(one, context));
  }

  #ruled(frame: Frame, direction: "sent" | "received"): FrameWork | null {
    const { rules, size } = this.#settings;
    const context = { device: null, direction, size: { ...size, length: this.#length } };
    return rules[frame.kind]?.(frame, context) ?? null;
  }
}

/** Options of {@linkcode DeviceParty}. */
export interface DevicePartyOptions {
  /** Its number. */
  readonly device: number;
  /** How many times as fast as the compute model's device. */
  readonly speed: number;
  /** How many times as long work takes that begins at a time. */
  readonly slowness: (atMs: number) => number;
  /** Tokens that the loss counts of a step with so many. */
  readonly counted: (tokens: number) => number;
}

/** A device: does what frames ask it for, in the order of their arrival. */
export class DeviceParty {
  readonly #settings: TimelineSettings;
  readonly #timeline: Timeline;
  readonly #counted: (tokens: number) => number;
  readonly #device: number;
  /** When the answers are ready whose work is done or under way, by what they are. */
  readonly #ready = new Map<string, number>();
  #run: SplitShape | null = null;
  #pass: PassDescription | null = null;
  /** Exchanges of the pass that have not come yet, by what asks. */
  readonly #left = new Map<string, Exchange>();
  #mode: "train" | "evaluate" = "train";

  constructor(settings: TimelineSettings, options: DevicePartyOptions) {
    this.#settings = settings;
    this.#timeline = new Timeline(settings.clock, (atMs) => options.slowness(atMs) / options.speed);
    this.#counted = options.counted;
    this.#device = options.device;
  }

  get busyMs(): number {
    return this.#timeline.busyMs;
  }

  wrap(channel: Channel): Channel {
    return timed(channel, this.#settings.clock, {
      arrives: (frame) => this.#arrives(frame),
      departs: (frame) => this.#departs(frame),
    });
  }

  #size(): StepShape {
    return { ...this.#settings.size, length: 1 }; // no attention on a device
  }

  #work(party: PartyCompute, work: readonly StepWork[]): number {
    const context = { size: this.#size(), counted: this.#counted };
    return this.#timeline.work(party, work.map((one) => segmentOf(one, context)));
  }

  /** Does the work for messages one after the other. */
  #prepare(messages: readonly StepMessage[]): void {
    const { compute } = this.#settings;
    for (const message of messages) {
      const party = message.from === "data" ? compute.dataDevice ?? compute.device : compute.device;
      this.#ready.set(keyOf(message), this.#work(party, message.work));
    }
  }

  #arrives(frame: Frame): void {
    const ruled = this.#ruled(frame, "received");
    if (ruled !== null) return void this.#timeline.work(this.#settings.compute.device, ruled.before ?? []);
    if (frame.kind === "welcome") this.#run = runOf(frame);
    if (this.#run === null) return;
    if (frame.kind === "hidden") {
      const microBatches = [{ rows: frame.tensors[0]!.shape[0]! }];
      const pass = { run: this.#run, mode: this.#mode, microBatches, devices: [], lowest: this.#run.layers };
      const { answers } = describePass(pass).flows[0]![0]!;
      return this.#prepare(answers.map((answer) => ({ ...answer, microBatch: frame.microBatch ?? 0 })));
    }
    if (frame.kind === "mask") {
      this.#pass = passOf(this.#run, frame, [headsOf(frame)]);
      this.#left.clear();
      for (const exchange of exchangesOf(this.#pass)) {
        const [message] = exchange.messages;
        if (message?.to === 0 && message.kind !== "mask") this.#left.set(keyOf(message), exchange);
      }
    } else {
      const exchange = this.#left.get(keyOf(frame));
      if (exchange === undefined) return;
      this.#left.delete(keyOf(frame));
      this.#prepare(exchange.answers);
    }
    // All layers are done: what is left is the factor that clips.
    const last = frame.kind !== "clip" && this.#left.size === (this.#pass?.clip ? 1 : 0);
    if (last) this.#prepare(this.#pass?.settle ?? []);
  }

  #departs(frame: Frame): number {
    const { clock, compute } = this.#settings;
    const ruled = this.#ruled(frame, "sent");
    if (ruled !== null) {
      const departsAt = this.#timeline.work(compute.device, ruled.before ?? []);
      this.#timeline.work(compute.device, ruled.after ?? []);
      return departsAt;
    }
    if (frame.kind === "embedding" || frame.kind === "decode") {
      this.#mode = frame.kind === "embedding" ? frame.meta.mode : "evaluate";
      // Of rows that come once the places say how many tokens there are; the work depends on no more.
      const [batch, length, hidden] = frame.tensors.at(-1)!.shape as [number, number, number];
      return this.#work(
        compute.dataDevice ?? compute.device,
        describeEmbedding({ batch, length, hidden }).work,
      );
    }
    const key = keyOf(frame.kind === "loss" ? { kind: "hiddenGradient", layer: 0 } : frame);
    return Math.max(this.#ready.get(key) ?? this.#timeline.now(), clock.now());
  }

  #ruled(frame: Frame, direction: "sent" | "received"): FrameWork | null {
    const context = { device: this.#device, direction, size: this.#size() };
    return this.#settings.rules[frame.kind]?.(frame, context) ?? null;
  }
}

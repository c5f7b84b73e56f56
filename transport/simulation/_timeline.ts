/**
 * Compute time in virtual time: each party has a timeline, and what it computes for a frame moves
 * its timeline on before the frame leaves. Only the headers of frames are looked at; the sessions
 * know nothing of it.
 *
 * @module
 */

import type { Channel } from "@edgetuner/core/contracts";
import { decodeFrame, type Frame } from "@edgetuner/core";
import {
  type ComputeModel,
  embedWork,
  headsBackwardWork,
  headsForwardWork,
  layerWork,
  lossWork,
  type PartyCompute,
  pruneWork,
  type Segment,
  segmentMs,
  type StepShape,
  updateWork,
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

/** Number of the micro-batch that a frame belongs to; 0 where batches are not cut. */
function microBatchOf(frame: Frame & { readonly microBatch?: number }): number {
  return frame.microBatch ?? 0;
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

/** Where the edge server is within a pass through the layers, for one micro-batch. */
interface Position {
  /** Last layer whose input was sent; -1 before the first. */
  forward: number;
  /** Last layer whose gradients were sent; L before the first. */
  backward: number;
}

/** The edge server: one timeline for the channels of all devices. */
export class EdgeParty {
  readonly #settings: TimelineSettings;
  readonly #timeline: Timeline;
  #length = 1;
  #passes = 0;
  #lowest = 0;
  readonly #positions = new Map<number, Position>();
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
    let passes = 0;
    const sent = new Map<string, number>();
    return timed(channel, this.#settings.clock, {
      arrives: (frame) => {
        if (frame.kind === "embedding") this.#length = frame.tensors[0]?.shape[1] ?? 1;
        this.#timeline.work(this.#settings.compute.edgeServer, this.#ruled(frame, "received")?.before ?? []);
      },
      departs: (frame) => {
        const key = `${frame.kind} ${frame.layer} ${microBatchOf(frame)}`;
        const ruled = this.#ruled(frame, "sent");
        if (ruled !== null) {
          const turn = (sent.get(key) ?? 0) + 1;
          sent.set(key, turn);
          return this.#departsOnce(key, turn, () => [ruled.before ?? [], ruled.after ?? []]);
        }
        if (frame.kind === "mask" && ++passes > this.#passes) {
          this.#passes = passes;
          this.#lowest = frame.meta.lowest;
          this.#positions.clear();
        }
        const isWork = ["mask", "input", "hidden", "deltaGradient"].includes(frame.kind);
        // Handshake and end are no work.
        if (!isWork) return this.#settings.clock.now();
        return this.#departsOnce(key, this.#passes, () => this.#stepWork(frame));
      },
    });
  }

  /** When a frame leaves that may go to several devices: what comes before it is done once in each turn. */
  #departsOnce(
    key: string,
    turn: number,
    work: () => readonly [before: readonly Segment[], meanwhile: readonly Segment[]],
  ): number {
    const { clock, compute } = this.#settings;
    const known = this.#departures.get(key);
    if (known !== undefined && known.turn >= turn) return Math.max(known.atMs, clock.now());
    const [before, meanwhile] = work();
    const atMs = this.#timeline.work(compute.edgeServer, [...this.#postponed, ...before]);
    if (this.#settings.overlap) this.#timeline.work(compute.edgeServer, meanwhile);
    else this.#postponed = meanwhile;
    this.#departures.set(key, { turn, atMs });
    return atMs;
  }

  /** What the edge server does since it last sent something, and what while it waits for the answers. */
  #stepWork(frame: Frame): [before: Segment[], meanwhile: Segment[]] {
    const { size } = this.#settings;
    const { layers } = size.model;
    const { layer, kind } = frame;
    const micro = microBatchOf(frame);
    let position = this.#positions.get(micro);
    if (position === undefined) this.#positions.set(micro, position = { forward: -1, backward: layers });
    const shape = frame.tensors[0]?.shape ?? [];
    const work = (name: Parameters<typeof layerWork>[1], tokens: number) =>
      layerWork({ ...size, length: this.#length }, name, tokens);
    const before: Segment[] = [];
    if (kind === "mask") return [frame.meta.mode === "train" ? [pruneWork()] : [], []];
    if (kind === "deltaGradient") {
      const tokens = shape[2]!;
      for (let l = position.backward - 1; l > layer; l--) {
        before.push(work("restBackward", tokens), work("qkvBackward", tokens));
      }
      position.backward = layer;
      before.push(work("restBackward", tokens));
      return [before, layer > this.#lowest ? [work("qkvBackward", tokens)] : []];
    }
    const last = kind === "hidden" ? layers : layer;
    const tokens = shape[shape.length - 2]!; // of X and of h_L alike
    if (position.forward >= 0) before.push(work("rest", tokens));
    for (let l = position.forward + 1; l < last; l++) {
      before.push(work("norm", tokens), work("qkv", tokens), work("rest", tokens));
    }
    position.forward = last;
    if (kind === "hidden") return [before, []];
    return [[...before, work("norm", tokens)], [work("qkv", tokens)]];
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
  #mask: Uint8Array = new Uint8Array(0);
  #training = true;
  #lowest = 0;
  #update: Segment | null = null;

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

  #arrives(frame: Frame): void {
    const { compute, size } = this.#settings;
    const { kind, layer, tensors } = frame;
    const shape = tensors[0]?.shape ?? [];
    const { model } = size;
    const ruled = this.#ruled(frame, "received");
    if (ruled !== null) return void this.#timeline.work(compute.device, ruled.before ?? []);
    const ready = (answer: string, segment: Segment, party = compute.device) =>
      this.#ready.set(`${answer} ${layer} ${microBatchOf(frame)}`, this.#timeline.work(party, [segment]));
    if (kind === "mask") {
      // Another part of the same step: the heads are updated after the last one only.
      if (frame.meta.part !== undefined && frame.meta.part[0] > 0) this.#update = null;
      else this.#finishUpdate();
      this.#mask = tensors[0]!.data as Uint8Array;
      this.#lowest = frame.meta.lowest;
    } else if (kind === "input") {
      ready("delta", headsForwardWork(this.#size(), shape[shape.length - 2]!, this.#kept(layer)));
    } else if (kind === "deltaGradient") {
      ready("inputGradient", headsBackwardWork(this.#size(), shape[2]!, shape[1]!, layer > this.#lowest));
      let kept = 0;
      for (let l = 0; l < model.layers; l++) kept += this.#kept(l);
      this.#update = updateWork(this.#size(), kept);
    } else if (kind === "hidden") {
      const tokens = shape[0]!;
      const work = lossWork(this.#size(), tokens, this.#counted(tokens), this.#training);
      ready("hiddenGradient", work, compute.dataDevice ?? compute.device);
    }
  }

  #departs(frame: Frame): number {
    const { clock, compute } = this.#settings;
    const { kind, layer } = frame;
    const ruled = this.#ruled(frame, "sent");
    if (ruled !== null) {
      const departsAt = this.#timeline.work(compute.device, ruled.before ?? []);
      this.#timeline.work(compute.device, ruled.after ?? []);
      return departsAt;
    }
    if (kind === "embedding") {
      const [batch, length] = frame.tensors[0]!.shape;
      this.#training = frame.meta.mode === "train";
      const work = embedWork(this.#size(), batch! * length!);
      return this.#timeline.work(compute.dataDevice ?? compute.device, [work]);
    }
    if (kind === "statistics") {
      this.#finishUpdate();
      return this.#timeline.now();
    }
    const key = `${kind === "loss" ? "hiddenGradient" : kind} ${layer} ${microBatchOf(frame)}`;
    return Math.max(this.#ready.get(key) ?? this.#timeline.now(), clock.now());
  }

  #ruled(frame: Frame, direction: "sent" | "received"): FrameWork | null {
    const context = { device: this.#device, direction, size: this.#size() };
    return this.#settings.rules[frame.kind]?.(frame, context) ?? null;
  }

  /** The update follows the last gradients at once, whenever it is first noticed. */
  #finishUpdate(): void {
    if (this.#update !== null) this.#timeline.work(this.#settings.compute.device, [this.#update], 0);
    this.#update = null;
  }

  #kept(layer: number): number {
    const { layers } = this.#settings.size.model;
    const heads = this.#mask.length / layers;
    return this.#mask.subarray(layer * heads, (layer + 1) * heads).reduce((sum, z) => sum + 1 - z, 0);
  }
}

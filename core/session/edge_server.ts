/**
 * The edge server: holds the frozen base model, lets devices join, and runs the steps.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import { requireSameRun, type RunCheckpoint } from "./run_checkpoint.ts";
import { BackgroundSaver, SaveSchedule, type SavingTimes } from "./saving.ts";
import { HandshakeError } from "../contracts/errors.ts";
import { CachedLayers } from "../generation/cached_layers.ts";
import { allocateHeads, type HeadRange } from "../lora/allocation.ts";
import type { LoraSettings } from "../lora/settings.ts";
import type { BaseLayers } from "../model/base.ts";
import { showValue } from "../contracts/plain_text.ts";
import type { HeadStatistics } from "../contracts/ports.ts";
import { sampleSettings } from "../pruning/predictor/samples.ts";
import {
  checkPruner,
  DEVICE_STATISTICS,
  type Pruner,
  type PrunerContext,
  type PrunerDecision,
  type PrunerInput,
} from "../contracts/pruner.ts";
import { Tape } from "../model/tape.ts";
import { embeddingMean } from "../train/embedding_mean.ts";
import { probeStep, runStep } from "../train/step.ts";
import type { MetaOf } from "../protocol/messages.ts";
import { splitShape } from "../protocol/pass.ts";
import { askPruner, initPruner } from "../pruning/ask_pruner.ts";
import { isSame, savedWithHeads, textOf } from "./_identity.ts";
import { type DecodingRequest, RemoteData } from "./remote_data.ts";
import { RemoteHeads } from "./remote_heads.ts";
import { type RunMember, RunServer, type RunServerOptions } from "./run_server.ts";
import { Waits } from "./waits.ts";

/** Options of an edge server. */
export interface EdgeServerOptions extends RunServerOptions {
  /** The engine of the base model. */
  readonly engine: Engine;
  /** The base model's layers. */
  readonly base: BaseLayers;
  /** Decides which heads are pruned. */
  readonly pruner: Pruner;
  /** ||W||_F of the base model's weights per head, [L * H], for pruners that need it. */
  readonly baseNorm?: Float32Array | undefined;
  /**
   * Saves what the edge server needs to go on: called after every `settings.checkpointEvery` steps or every
   * `saveEveryMs`, and when the run ends in good order. The devices save after the same steps. Steps go on
   * meanwhile; the next save waits until it is done.
   */
  onCheckpoint?(checkpoint: RunCheckpoint): void | Promise<void>;
  /**
   * Milliseconds from one save to the next where `settings.checkpointEvery` is 0; more where saving, on whatever
   * party, takes more than 1 % of the time; 0 for no saves in between. @default {0}
   */
  readonly saveEveryMs?: number | undefined;
  /** Most bytes of keys and values that generation may keep; a data device that asks for more is closed. @default {1073741824} */
  readonly maxCacheBytes?: number | undefined;
}

/** The devices with heads in order of their heads, and which each has. */
interface HeadAssignment {
  readonly members: readonly RunMember[];
  readonly ranges: readonly HeadRange[];
}

/** One run of an edge server. */
export class EdgeServer extends RunServer {
  readonly #options: EdgeServerOptions;
  readonly #saver = new BackgroundSaver();

  /**
   * Prepares a run; devices may `join` at once, the steps begin with `start`.
   *
   * @param options See `EdgeServerOptions`.
   * @throws {RangeError} If settings are out of range.
   * @throws {HandshakeError} If the settings name a codec that is not known.
   * @throws {PluginError} If the pruner is not one, see `checkPruner`.
   */
  constructor(options: EdgeServerOptions) {
    super(options, { system: "split", maxDevices: options.base.shape.heads });
    const { maxCacheBytes = 0 } = options;
    if (!(maxCacheBytes >= 0)) {
      throw new RangeError(
        `Cannot start the edge server as maxCacheBytes must be 0 or more: current value is ${maxCacheBytes}`,
      );
    }
    this.#options = options;
    checkPruner(options.pruner);
    const { accumulate } = this.settings;
    if (accumulate > 1 && options.pruner.needs.includes("trueGradientNorm")) {
      throw new RangeError(
        `Cannot start the edge server as accumulate must be 1 for pruner "${options.pruner.name}", which probes whole batches: current value is ${accumulate}`,
      );
    }
  }

  /** As of every server of a run; nothing is being written any more when it is over. */
  override async start(signal?: AbortSignal): Promise<void> {
    try {
      await super.start(signal);
    } finally {
      await this.#saver.settled().catch(() => {});
    }
  }

  /** What saving took on this server. */
  get saving(): SavingTimes {
    return this.#saver.times;
  }

  /** The newest checkpoint whose step all parties have; `null` in a new run. */
  async #checkpoint(): Promise<RunCheckpoint | null> {
    const { resume, fingerprint, pruner } = this.#options;
    if (resume === undefined) return null;
    const stepsOf = ({ hello }: RunMember) => hello.checkpoints?.steps ?? [];
    const common = resume.steps.filter((step) => this.members.every((m) => stepsOf(m).includes(step)));
    if (common.length === 0) {
      throw new HandshakeError(
        `Cannot go on with run "${this.run}" as all must have a checkpoint of the same step: the edge server has ${resume.steps}, ${
          this.members.map((m) => `${textOf(m.hello)} ${stepsOf(m)}`).join(", ")
        }`,
      );
    }
    const checkpoint = await resume.load(Math.max(...common));
    requireSameRun(checkpoint, { settings: this.settings, fingerprint });
    if (checkpoint.pruning?.pruner !== pruner.name) {
      throw new HandshakeError(
        `Cannot go on with run "${this.run}" as the pruner must be "${checkpoint.pruning?.pruner}", as in the checkpoint: current value is "${pruner.name}"`,
      );
    }
    return checkpoint;
  }

  /** Whoever had heads has them again, whatever the order of joining. */
  #savedRanges({ devices }: RunCheckpoint): HeadAssignment {
    const saved = savedWithHeads(devices);
    const members = saved.map((device) => {
      const member = this.headMembers.find(({ hello }) => isSame(hello, device));
      if (member !== undefined) return member;
      throw new HandshakeError(
        `Cannot go on with run "${this.run}" as the devices with heads must be those of the checkpoint, ${
          saved.map(textOf).join(", ")
        }: ${textOf(device)} is missing among ${this.headMembers.map((m) => textOf(m.hello)).join(", ")}`,
      );
    });
    return { members, ranges: saved.map((device) => device.range) };
  }

  /** In generation a device brings heads of its own: they must be those of this run and nobody else's. */
  protected override checkHello({ name, capacity, learnt }: MetaOf<"hello">): void {
    if (this.settings.task !== "generate" || capacity === 0) return;
    const { shape } = this.#options.base;
    if (learnt === undefined || learnt.range.first + learnt.range.count > shape.heads) {
      throw new HandshakeError(
        `Cannot admit "${name}" as it must have learnt some of ${shape.heads} heads before: current value is ${
          showValue(learnt?.range ?? null)
        }`,
      );
    }
    const of = ({ mode, targets, rank, alpha }: LoraSettings) =>
      `${mode} ${targets} rank ${rank} alpha ${alpha}`;
    const [own, run] = [of(learnt.lora), of(this.settings.lora)];
    if (own !== run) {
      throw new HandshakeError(
        `Cannot admit "${name}" as its heads must have learnt with the run's LoRA settings, ${run}: current value is ${own}`,
      );
    }
    const { first, count } = learnt.range;
    const other = this.headMembers.find(({ hello }) => {
      const { range } = hello.learnt!;
      return range.first < first + count && first < range.first + range.count;
    });
    if (other !== undefined) {
      throw new HandshakeError(
        `Cannot admit "${name}" as each head must be on one device: some of its heads ${first} to ${
          first + count - 1
        } are on "${other.device.name}"`,
      );
    }
  }

  /** The devices with heads in order of their heads, and which each has. */
  #ranges(): HeadAssignment {
    const { heads } = this.#options.base.shape;
    if (this.settings.task === "train") {
      const members = this.headMembers;
      return { members, ranges: allocateHeads(heads, members.map((m) => m.device.capacity)) };
    }
    const owned = this.headMembers.map((member) => ({
      member,
      range: member.hello.learnt!.range,
    }))
      .sort((a, b) => a.range.first - b.range.first);
    let next = 0;
    for (const { range } of owned) {
      if (range.first !== next) break;
      next += range.count;
    }
    if (next !== heads) {
      throw new HandshakeError(
        `Cannot generate as the devices must have all ${heads} heads of a layer together: head ${next} is on none`,
      );
    }
    return { members: owned.map((o) => o.member), ranges: owned.map((o) => o.range) };
  }

  /** h_L of new tokens; keys and values stay here. */
  async #decode(
    request: DecodingRequest,
    step: number,
    ports: {
      readonly cached: CachedLayers;
      readonly data: RemoteData;
      readonly waits: Waits;
      readonly bytesBefore: number;
    },
  ): Promise<void> {
    const { engine, maxCacheBytes = 2 ** 30 } = this.#options;
    const { cached, data, waits, bytesBefore } = ports;
    const { embedding, rows, length, parents } = request;
    const started = this.now();
    const before = this.counters(engine, waits);
    using tape = new Tape(engine, false);
    tape.own(embedding);
    const total = length + (parents === null ? 0 : cached.length);
    const cacheBytes = cached.bytesFor(rows, total);
    if (parents?.some((p) => p < 0 || p >= cached.rows)) {
      data.refuse(
        `new tokens must continue rows below ${cached.rows}: current value is [${parents.slice(0, 16)}]`,
      );
    }
    if (cacheBytes > maxCacheBytes) {
      data.refuse(
        `keys and values must take at most ${maxCacheBytes} bytes: ${rows} rows of ${total} tokens take ${cacheBytes}`,
      );
    }
    const hidden = await cached.forward(tape, embedding, { rows, parents, step });
    await data.answer(step, hidden.value);
    const after = this.counters(engine, waits);
    const spent = (what: keyof typeof after) => after[what] - before[what];
    const times = {
      total: this.now() - started,
      readback: spent("readback"),
      codec: spent("codec"),
      wait: spent("wait"),
    };
    const bytes = after.bytes - bytesBefore;
    this.emit({
      type: "decoding",
      record: { rows, tokens: length, length: total, times, bytes, cacheBytes },
    });
  }

  /** Runs the steps, with the pruner's decision in each. */
  protected override async runAll(): Promise<void> {
    const { engine, base, pruner } = this.#options;
    const { layers, heads, hidden } = base.shape;
    const resumed = await this.#checkpoint();
    const { members, ranges } = resumed === null ? this.#ranges() : this.#savedRanges(resumed);
    const model = { layers, heads, hidden };
    const capacities = members.map((m) => m.device.capacity);
    const fromDevices = DEVICE_STATISTICS.filter((n) => pruner.needs.includes(n));
    const { checkpointEvery, accumulate, clipNorm } = this.settings;
    let step = resumed?.step ?? 0;
    this.setRunning();
    for (const member of this.members) {
      const index = members.indexOf(member);
      member.device.range = index < 0 ? null : ranges[index]!;
      await member.peer.send("welcome", {
        meta: {
          run: this.run,
          settings: this.settings,
          model,
          range: member.device.range,
          statistics: fromDevices,
          start: step,
        },
      });
      member.peer.run = this.run;
      member.peer.codec = this.codec;
    }
    const dataMember = this.members.find((m) => m.device.data)!;
    const waits = new Waits(engine);
    const run = splitShape(model, this.settings, {
      statistics: fromDevices.length,
      sharesLoss: dataMember.sharesLoss,
    });
    const { microBatches } = this.settings;
    const data = new RemoteData({ engine, peer: dataMember.peer, run, waits, accumulate, microBatches });
    using remote = new RemoteHeads({
      engine,
      model,
      lora: this.settings.lora,
      devices: members.map(({ peer }, i) => ({ peer, range: ranges[i]! })),
      statistics: fromDevices,
      overlap: this.settings.overlap,
      clipNorm,
      waits,
    });
    using cached = new CachedLayers({ engine, layers: base, heads: remote });
    const context: PrunerContext = {
      layers,
      heads,
      headsPerDevice: ranges.map((r) => r.count),
      capacities,
      seed: this.settings.seed,
      settings: sampleSettings(this.settings),
    };
    const ports = { engine, base, heads: remote, data, microBatches };
    let state = resumed === null ? initPruner(pruner, context) : resumed.pruning!.state;
    let statistics: HeadStatistics = resumed?.pruning?.statistics ?? {};
    let lastMask: Uint8Array | null = resumed?.pruning?.lastMask ?? null;
    const now = this.now;
    const { onCheckpoint, saveEveryMs: ms } = this.#options;
    const schedule = new SaveSchedule({ steps: checkpointEvery, ms: onCheckpoint && ms }, now);
    let saved: number | null = null;
    const save = async () => {
      if (onCheckpoint === undefined || saved === step || this.settings.task !== "train") return;
      saved = step;
      const read = (): RunCheckpoint => ({
        run: this.run,
        step,
        settings: this.settings,
        fingerprint: this.#options.fingerprint,
        heads: null,
        pruning: { pruner: pruner.name, state, lastMask, statistics },
        devices: this.members.map(({ hello: { name, id }, device: { capacity, range } }) => ({
          name,
          ...(id !== undefined && { id }),
          capacity,
          range,
        })),
        data: null,
      });
      await this.#saver.save(read, (checkpoint) => onCheckpoint.call(this.#options, checkpoint));
    };
    let best = false;
    while (await this.mayGoOn()) {
      const before = this.counters(engine, waits);
      const started = now();
      const batch = await data.request(step);
      if (batch === null) {
        best = data.best;
        break;
      }
      if ("parents" in batch) {
        await this.#decode(batch, step, { cached, data, waits, bytesBefore: before.bytes });
        continue;
      }
      cached.forget();
      if (batch.mode === "train" && this.settings.task !== "train") {
        batch.embedding.dispose();
        data.refuse(`a run for generation has no training steps: step ${step} came`);
      }
      remote.best = data.best;
      const pruneStarted = now();
      const beforeProbe = this.counters(engine, waits);
      let afterProbe = beforeProbe;
      let decision: PrunerDecision = { mask: new Uint8Array(layers * heads) };
      if (batch.mode === "train") {
        try {
          let trueGradientNorm: Float32Array | null = null;
          if (pruner.needs.includes("trueGradientNorm")) {
            trueGradientNorm = await probeStep(ports, step, batch);
            afterProbe = this.counters(engine, waits);
          }
          const input: PrunerInput = {
            step,
            lastMask,
            gradientNorm: pruner.needs.includes("gradientNorm") ? statistics.gradientNorm ?? null : null,
            loraNorm: pruner.needs.includes("loraNorm") ? statistics.loraNorm ?? null : null,
            weightChange: pruner.needs.includes("weightChange") ? statistics.weightChange ?? null : null,
            trueGradientNorm,
            baseNorm: pruner.needs.includes("baseNorm") ? this.#options.baseNorm ?? null : null,
            embeddingMean: pruner.needs.includes("embeddingMean") ? await embeddingMean(batch) : null,
          };
          const limit = { ms: this.#options.timeoutMs ?? 120_000, signal: this.signal };
          [decision, state] = await askPruner(pruner, input, state, context, limit);
        } catch (error) {
          batch.embedding.dispose();
          throw error;
        }
      }
      const prune = now() - pruneStarted;
      const isSaved = batch.mode === "train" && schedule.isDue(step + 1);
      if (isSaved) await this.#saver.settled();
      remote.saves = data.saves = isSaved;
      const outcome = await runStep(ports, step, batch, decision.mask);
      const after = this.counters(engine, waits);
      // What a probe cost is told apart, so that the step's own figures compare with other pruners'.
      const spent = (what: keyof typeof after) =>
        after[what] - before[what] - (afterProbe[what] - beforeProbe[what]);
      this.emit({
        type: "step",
        record: {
          step,
          mode: batch.mode,
          loss: outcome.loss,
          times: {
            total: now() - started,
            prune,
            readback: spent("readback"),
            codec: spent("codec"),
            wait: spent("wait"),
          },
          bytes: spent("bytes"),
          ...(afterProbe !== beforeProbe ? { probeBytes: afterProbe.bytes - beforeProbe.bytes } : {}),
          ...(outcome.statistics.globalNorm === undefined
            ? {}
            : { gradientNorm: outcome.statistics.globalNorm }),
          mask: decision.mask,
          kept: keptPerLayer(decision.mask, layers, heads),
          scores: decision.scores ?? null,
          tokens: outcome.tokens,
          batch: outcome.batch,
        },
      });
      if (batch.mode === "train") {
        statistics = outcome.statistics;
        lastMask = decision.mask;
        step++;
        if (isSaved) await save();
        schedule.took(now() - started, isSaved);
      }
    }
    this.ending = { step, best };
    await save();
    await this.#saver.settled();
  }
}

/** Kept heads of each layer. */
export function keptPerLayer(mask: Uint8Array, layers: number, heads: number): number[] {
  return Array.from(
    { length: layers },
    (_, l) => mask.subarray(l * heads, (l + 1) * heads).reduce((sum, z) => sum + 1 - z, 0),
  );
}

/**
 * Tensor parallelism over the same channels as the split run: the rival TPTensor. The base model's
 * attention heads and feed-forward columns are divided among the edge server and the devices; two
 * all-reduces a layer in each direction go through the edge server as a star.
 *
 * T tokens, d hidden size, L layers, M devices with a share.
 *
 * @module
 */

import type { Engine, Tensor } from "@edgetuner/kernels";
import { HandshakeError, ProtocolError } from "../../contracts/errors.ts";
import { HeadModules } from "../../lora/head_modules.ts";
import { INPUT_MODES } from "../../lora/input_modes.ts";
import type { Gpt2Config } from "../../model/families/gpt2.ts";
import type { NamedArrays } from "../../files/named_arrays.ts";
import { weightOf } from "../../model/ops.ts";
import type { EmbeddedBatch } from "../../contracts/ports.ts";
import type { RunMember } from "../../session/run_member.ts";
import { RunServer } from "../../session/run_server.ts";
import type { RunServerOptions } from "../../session/run_server_options.ts";
import { RemoteData } from "../../session/remote_data.ts";
import { WaitTimer } from "../../session/wait_timer.ts";
import type { ModelShape } from "../../contracts/model_shape.ts";
import type { MetaOf } from "../../protocol/messages.ts";
import { splitShape } from "../../protocol/pass.ts";
import type { Peer } from "../../protocol/peer.ts";
import { Trainer } from "../../train/trainer.ts";
import { ModelShard, type ShardStep } from "./rank.ts";
import { allocateShares, cutShard, shardShapes, type Share, shareMemory, type StepSize } from "./shares.ts";

/** Options of a tensor-parallel server. */
export interface TensorParallelServerOptions extends Omit<RunServerOptions, "resume"> {
  /** The engine of the server's own share. */
  readonly engine: Engine;
  /** The base model; devices get their shares of it over the wire. */
  readonly model: { readonly config: Gpt2Config; readonly weights: NamedArrays };
  /** gamma of the server itself, in the unit of the devices' capacities. @default {1} */
  readonly capacity?: number | undefined;
  /** The largest step there will be: what devices' memory is reckoned by. Larger ones are refused. */
  readonly largestStep: StepSize;
}

/** The devices' side of all-reduces. */
class Star {
  readonly #engine: Engine;
  readonly #peers: readonly Peer[];
  /** Milliseconds spent waiting for devices, after the own part was there. */
  waitMs = 0;

  constructor(engine: Engine, peers: readonly Peer[]) {
    this.#engine = engine;
    this.#peers = peers;
  }

  /** Sends the same values [T, d] to every device. */
  async broadcast(
    kind: "activation" | "activationGradient",
    at: { readonly step: number; readonly block: number; readonly meta?: MetaOf<"activation"> },
    values: Float32Array,
    shape: readonly number[],
  ): Promise<void> {
    const { step, block, meta = {} } = at;
    const tensors = [{ dtype: "f32" as const, shape, data: values }];
    await Promise.all(this.#peers.map((peer) => peer.send(kind, { step, layer: block, meta, tensors })));
  }

  /**
   * Adds the devices' parts of a block to the own one, in the order of the ranks whatever the order
   * of arrival: the same bits every time.
   */
  async sum(
    kind: "partial" | "partialGradient",
    at: { readonly step: number; readonly block: number },
    own: Tensor,
  ): Promise<Float32Array> {
    const { step, block } = at;
    const shapes = [[own.rows, own.columns]];
    const parts = Promise.all(
      this.#peers.map((peer) => peer.receive(kind, { step, layer: block, shapes })),
    );
    parts.catch(() => {}); // awaited below; until then it is not unhandled
    const sum = (await this.#engine.read([own]))[0]!;
    const started = performance.now();
    for (const frame of await parts) {
      const part = frame.tensors[0]!.data;
      for (let i = 0; i < sum.length; i++) sum[i]! += part[i]!;
    }
    this.waitMs += performance.now() - started;
    return sum;
  }
}

/**
 * One tensor-parallel run, with the events and records of an `EdgeServer`. The server is rank 0: it
 * holds a share itself, its head modules included.
 */
export class TensorParallelServer extends RunServer implements Disposable {
  readonly #options: TensorParallelServerOptions;
  readonly #model: ModelShape;
  #modules: HeadModules | null = null;

  /**
   * Prepares a run; devices may `join` at once, the steps begin with `start`, which rejects with a
   * `HandshakeError` if a device has too little memory for its share.
   *
   * @param options See `TensorParallelServerOptions`.
   * @throws {RangeError} If settings are out of range.
   */
  constructor(options: TensorParallelServerOptions) {
    const { n_layer: layers, n_head: heads, n_embd: hidden, n_inner } = options.model.config;
    if (n_inner !== undefined) {
      throw new RangeError(
        `Cannot start the server as the feed-forward network must have 4 d columns where they are shared: current value is ${n_inner}`,
      );
    }
    super(options, { system: "tensorParallel", maxDevices: heads - 1 });
    this.#options = options;
    this.#model = { layers, heads, hidden };
    const { microBatches, accumulate, clipNorm, saveEvery, task } = this.settings;
    const unsupported = Object.entries(
      {
        microBatches: [microBatches, 1],
        accumulate: [accumulate, 1],
        clipNorm: [clipNorm, null],
        saveEvery: [saveEvery, 0],
        task: [task, "train"],
      } as const,
    ).find(([, [value, only]]) => value !== only);
    if (unsupported !== undefined) {
      const [name, [value, only]] = unsupported;
      throw new RangeError(
        `Cannot start the server as ${name} must be ${only} where all-reduces are: current value is ${value}`,
      );
    }
    const { mode } = this.settings.lora;
    if (INPUT_MODES[mode].projects) {
      throw new RangeError(
        `Cannot start the server as the LoRA mode must be one whose devices train A and B where all-reduces are: current value is "${mode}"`,
      );
    }
    const { capacity = 1, largestStep } = options;
    for (const [name, value] of Object.entries({ capacity, ...largestStep })) {
      if (!(value > 0 && value < Infinity)) {
        throw new RangeError(
          `Cannot start the server as ${name} must be positive: current value is ${value}`,
        );
      }
    }
  }

  /** The server's own head modules, once the run has started; freed with the server. */
  get modules(): HeadModules | null {
    return this.#modules;
  }

  /** Frees the server's own head modules. */
  [Symbol.dispose](): void {
    this.#modules?.[Symbol.dispose]();
    this.#modules = null;
  }

  /** Hands out the shares and runs the steps. */
  protected override async runAll(): Promise<void> {
    const { engine, model } = this.#options;
    const members = this.headMembers;
    const shares = allocateShares(this.#model, [
      this.#options.capacity ?? 1,
      ...members.map((m) => m.device.capacity),
    ]);
    await this.#requireMemory(members, shares);
    this.setRunning();
    using shard = new ModelShard(engine, model.config.layer_norm_epsilon);
    await this.#handOut(members, shares, shard);
    const modules = this.#modules = new HeadModules(engine, {
      lora: this.settings.lora,
      optimizer: this.settings.optimizer,
      ...this.#model,
      range: shares[0]!.heads,
      seed: this.settings.seed,
      steps: this.settings.steps,
    });
    const star = new Star(engine, members.map((m) => m.peer));
    const dataMember = this.members.find((m) => m.device.data)!;
    const waits = new WaitTimer(engine);
    const run = splitShape(this.#model, this.settings, { sharesLoss: dataMember.sharesLoss });
    const data = new RemoteData({ engine, peer: dataMember.peer, run, waits });
    const { layers, heads } = this.#model;
    let before = this.counters(engine, star, waits);
    const trainer = new Trainer({
      waitWhilePaused: () => this.waitWhilePaused(),
      next: (step) => {
        before = this.counters(engine, star, waits);
        return data.next(step);
      },
      step: async (step, batch) => {
        this.#requireSize(batch, dataMember.peer);
        using part = shard.begin(modules, { ...batch, step, root: true });
        const loss = await this.#runStep(step, batch, { part, star, data });
        return { loss, statistics: {}, batch: batch.batch, tokens: batch.batch * batch.length };
      },
    }, {
      maskLength: layers * heads,
      now: this.now,
      onEvent: (event) => {
        if (event.type !== "step") return;
        const { step, mode, loss, tokens, batch, ms, decision: { mask } } = event;
        const after = this.counters(engine, star, waits);
        this.emit({
          type: "step",
          record: {
            ...{ step, mode, loss, tokens, batch, mask, scores: null },
            times: {
              total: ms,
              prune: 0,
              readback: after.readback - before.readback,
              codec: after.codec - before.codec,
              wait: after.wait - before.wait,
            },
            bytes: after.bytes - before.bytes,
            kept: new Array<number>(layers).fill(heads),
            embeddingRows: data.embeddingRows,
          },
        });
      },
    });
    const { step } = await trainer.run();
    this.ending = { step, best: false };
  }

  /** Refuses devices whose memory is too small for their shares. */
  async #requireMemory(members: readonly RunMember[], shares: readonly Share[]): Promise<void> {
    let failure: HandshakeError | null = null;
    for (const [i, { peer, device, hello }] of members.entries()) {
      const { total } = shareMemory(this.#model, shares[i + 1]!, {
        lora: this.settings.lora,
        step: this.#options.largestStep,
      });
      const has = hello.memory;
      if (has !== undefined && has >= total) continue;
      const reason =
        `Cannot admit "${device.name}" as its share of the model needs ${total} bytes of memory: it ${
          has === undefined ? "did not say what it has" : `has ${has}`
        }`;
      failure ??= new HandshakeError(reason);
      this.emit({ type: "refused", peer: peer.name, reason });
      await peer.send("refuse", { meta: { reason } }).catch(() => {});
    }
    if (failure !== null) throw failure;
  }

  /** Sends every device its welcome and its share of the base model; loads the own share. */
  async #handOut(
    members: readonly RunMember[],
    shares: readonly Share[],
    shard: ModelShard,
  ): Promise<void> {
    const { config, weights } = this.#options.model;
    for (const member of this.members) {
      const index = members.indexOf(member);
      const own = index < 0 ? null : shares[index + 1]!;
      member.device.range = own?.heads ?? null;
      await member.peer.send("welcome", {
        meta: {
          run: this.run,
          settings: this.settings,
          model: this.#model,
          range: own?.heads ?? null,
          columns: own?.columns ?? null,
          epsilon: config.layer_norm_epsilon,
          statistics: [],
        },
      });
      member.peer.run = this.run;
      member.peer.codecs = this.codecs;
    }
    const d = this.#model.hidden;
    for (let l = 0; l < this.#model.layers; l++) {
      for (const [i, { peer }] of members.entries()) {
        const share = shares[i + 1]!;
        const shapes = shardShapes(this.#model, share);
        const values = cutShard(weights, this.#model, share, l);
        await peer.send("shard", {
          layer: l,
          tensors: values.map((data, k) => ({ dtype: "f32", shape: shapes[k]!, data })),
        });
      }
      shard.addLayer(cutShard(weights, this.#model, shares[0]!, l), shardShapes(this.#model, shares[0]!), [
        weightOf(weights, `h.${l}.attn.c_proj.bias`, 1, d),
        weightOf(weights, `h.${l}.mlp.c_proj.bias`, 1, d),
      ]);
    }
  }

  #requireSize(batch: EmbeddedBatch, peer: Peer): void {
    const { largestStep } = this.#options;
    if (batch.batch <= largestStep.batch && batch.length <= largestStep.length) return;
    batch.embedding.dispose();
    const error = new ProtocolError(
      `Cannot run the step as it must be at most ${largestStep.batch} x ${largestStep.length} tokens, for which memory was reckoned: it is ${batch.batch} x ${batch.length}`,
    );
    peer.failWith(error);
    throw error;
  }

  /** One step; returns the loss if it is shared. */
  async #runStep(
    step: number,
    batch: EmbeddedBatch,
    { part, star, data }: { readonly part: ShardStep; readonly star: Star; readonly data: RemoteData },
  ): Promise<number | null> {
    const { engine } = this.#options;
    const { mode, length } = batch;
    const shape = [batch.batch * length, this.#model.hidden] as const;
    const read = async (tensor: Tensor): Promise<Float32Array> => {
      using owned = tensor;
      return (await engine.read([owned]))[0]!;
    };
    const upload = (values: Float32Array) => engine.upload(values, ...shape, "equal on all ranks");
    const last = 2 * this.#model.layers - 1;

    // E goes to every rank; then each block's output is summed and goes to every rank as the next input.
    let values = await read(batch.embedding);
    for (let block = 0; block <= last; block++) {
      const meta = block === 0 ? { mode, batch: batch.batch, length } : {};
      await star.broadcast("activation", { step, block, meta }, values, shape);
      values = await star.sum("partial", { step, block }, await part.forward(block, upload(values)));
    }
    using hidden = upload(values);
    const { loss, gradient } = await data.loss(step, hidden);
    if (gradient === null) return loss;
    values = await read(gradient);
    for (let block = last;; block--) {
      await star.broadcast("activationGradient", { step, block }, values, shape);
      using own = await part.backward(upload(values));
      if (own === null) break; // nothing is trained below block 0
      values = await star.sum("partialGradient", { step, block }, own);
    }
    await part.update();
    return loss;
  }
}

/**
 * The data side behind a network: the edge server's side of the protocol with the data device.
 *
 * @module
 */

import type { Engine, Tensor } from "@edgetuner/kernels";
import { ProtocolError } from "../errors.ts";
import type { DataPort, EmbeddedBatch, LossResult, StepMode } from "../ports.ts";
import type { Frame } from "../wire/frame.ts";
import type { Peer } from "../wire/peer.ts";

/** Longest step accepted from a data device, in tokens. */
const MAX_TOKENS = 1 << 20;

/** New tokens that the data device wants h_L of, in generation. */
export interface DecodingRequest {
  /** E of the new tokens, [R * T, d]; the caller's to dispose. */
  readonly embedding: Tensor;
  /** R, rows that are continued side by side. */
  readonly rows: number;
  /** T, new tokens of each row. */
  readonly length: number;
  /** The row that each row continues, [R]; `null` for a prompt, which begins anew. */
  readonly parents: readonly number[] | null;
}

/** Asks the data device for embeddings and for the gradient of the last hidden state. */
export class RemoteData implements DataPort {
  readonly #engine: Engine;
  readonly #peer: Peer;
  readonly #hidden: number;
  readonly #sharesLoss: boolean;
  /** Milliseconds spent waiting for the data device. */
  waitMs = 0;
  #mode: StepMode = "train";

  /**
   * Talks to the data device of a run.
   *
   * @param engine The engine of the base model.
   * @param peer The data device.
   * @param hidden d, hidden size of the model.
   * @param sharesLoss True if the data device said that it shares its loss.
   */
  constructor(engine: Engine, peer: Peer, hidden: number, sharesLoss: boolean) {
    this.#engine = engine;
    this.#peer = peer;
    this.#hidden = hidden;
    this.#sharesLoss = sharesLoss;
  }

  /** The next batch's E; `null` when the data device has ended the run. */
  async next(step: number): Promise<EmbeddedBatch | null> {
    const frame = await this.#receive();
    return frame.kind === "finished" ? null : this.#batch(frame, step);
  }

  /** As `next`, where new tokens may come instead of a batch. */
  async request(step: number): Promise<EmbeddedBatch | DecodingRequest | null> {
    const frame = await this.#receive();
    if (frame.kind === "finished") return null;
    return frame.kind === "decode" ? this.#tokens(frame, step) : this.#batch(frame, step);
  }

  /** Answers new tokens with their h_L, [R * T, d]. */
  async answer(step: number, hidden: Tensor): Promise<void> {
    const [values] = await this.#engine.read([hidden]);
    const tensor = { dtype: "f32", shape: [hidden.rows, hidden.columns], data: values! };
    await this.#peer.send("hidden", { step, tensors: [tensor] });
  }

  /** Closes the data device for what it asked. */
  refuse(rule: string): never {
    const error = new ProtocolError(`Cannot answer ${this.#peer.name} as ${rule}`);
    this.#peer.reject(error);
    throw error;
  }

  async #receive(): Promise<Frame> {
    const started = performance.now();
    const frame = await this.#peer.next("data", `"embedding"`);
    this.waitMs += performance.now() - started;
    return frame;
  }

  #tokens(next: Frame, step: number): DecodingRequest {
    const { meta, tensors } = this.#peer.check(next, "decode", {
      step,
      shapes: [[null, null, this.#hidden]],
    });
    const [rows, length] = tensors[0]!.shape as [number, number];
    const { parents = null } = meta;
    const fits = parents === null
      ? rows === 1
      : length === 1 && Array.isArray(parents) && parents.length === rows &&
        parents.every((p) => Number.isInteger(p));
    if (!fits || rows * length > MAX_TOKENS) {
      this.refuse(
        `new tokens must be a prompt in one row, or one for each row that is continued, and at most ${MAX_TOKENS}: current value is ${rows} x ${length} that continue ${
          JSON.stringify(parents)?.slice(0, 80)
        }`,
      );
    }
    const embedding = this.#upload(tensors[0]!.data as Float32Array, rows * length);
    return { embedding, rows, length, parents: parents as number[] | null };
  }

  #upload(values: Float32Array, rows: number): Tensor {
    return this.#engine.upload(values, rows, this.#hidden, "embedding from data device");
  }

  #batch(next: Frame, step: number): EmbeddedBatch {
    const peer = this.#peer;
    const frame = peer.check(next, "embedding", { step, shapes: [[null, null, this.#hidden]] });
    const { mode } = frame.meta;
    const [batch, length] = frame.tensors[0]!.shape as [number, number];
    if ((mode !== "train" && mode !== "evaluate") || batch * length > MAX_TOKENS) {
      const error = new ProtocolError(
        `Cannot run the step as its mode must be "train" or "evaluate" and its tokens at most ${MAX_TOKENS}: current value is ${
          JSON.stringify(mode)
        }, ${batch} x ${length}`,
      );
      peer.reject(error);
      throw error;
    }
    this.#mode = mode;
    const embedding = this.#upload(frame.tensors[0]!.data as Float32Array, batch * length);
    return { embedding, batch, length, mode };
  }

  /** Sends h_L; in training and for a probe waits for dh_L. */
  async loss(step: number, hidden: Tensor, probe = false): Promise<LossResult> {
    const shape = [hidden.rows, hidden.columns];
    const [values] = await this.#engine.read([hidden]);
    await this.#peer.send("hidden", {
      step,
      meta: probe ? { probe } : {},
      tensors: [{ dtype: "f32", shape, data: values! }],
    });
    const started = performance.now();
    let gradient: Tensor | null = null;
    if (this.#mode === "train") {
      const frame = await this.#peer.receive("hiddenGradient", { step, shapes: [shape] });
      gradient = this.#engine.upload(
        frame.tensors[0]!.data as Float32Array,
        hidden.rows,
        hidden.columns,
        "dh_L",
      );
    }
    let loss: number | null = null;
    if (this.#sharesLoss && !probe) {
      try {
        const frame = await this.#peer.receive("loss", { step, shapes: [] });
        if (typeof frame.meta.loss === "number") loss = frame.meta.loss;
      } catch (error) {
        gradient?.dispose();
        throw error;
      }
    }
    this.waitMs += performance.now() - started;
    return { gradient, loss };
  }
}

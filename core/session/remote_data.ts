/**
 * The data side behind a network: the edge server's side of the protocol with the data device.
 *
 * @module
 */

import type { Engine, Tensor } from "@edgetuner/kernels";
import { ProtocolError } from "../errors.ts";
import type { DataPort, EmbeddedBatch, LossResult, StepMode } from "../ports.ts";
import type { Peer } from "../wire/peer.ts";

/** Longest step accepted from a data device, in tokens. */
const MAX_TOKENS = 1 << 20;

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
    const peer = this.#peer;
    const started = performance.now();
    const next = await peer.next("data", `"embedding"`);
    this.waitMs += performance.now() - started;
    if (next.kind === "finished") return null;
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
    const values = frame.tensors[0]!.data as Float32Array;
    const embedding = this.#engine.upload(values, batch * length, this.#hidden, "embedding from data device");
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

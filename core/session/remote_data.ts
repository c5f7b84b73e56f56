/**
 * The data side behind a network: the edge server's side of the protocol with the data device.
 *
 * @module
 */

import type { Engine, Tensor } from "@edgetuner/kernels";
import { ProtocolError } from "../errors.ts";
import { type MicroBatch, type StepPart, WHOLE_STEP } from "../micro_batches.ts";
import type { DataPort, EmbeddedBatch, LossResult, StepMode } from "../ports.ts";
import type { Frame } from "../wire/frame.ts";
import type { Peer } from "../wire/peer.ts";
import type { Waits } from "./waits.ts";

/** Longest step accepted from a data device, in tokens. */
const MAX_TOKENS = 1 << 20;

/** Asks the data device for embeddings and for the gradient of the last hidden state. */
export class RemoteData implements DataPort {
  readonly #engine: Engine;
  readonly #peer: Peer;
  readonly #hidden: number;
  readonly #sharesLoss: boolean;
  readonly #accumulate: number;
  readonly #waits: Waits;
  #mode: StepMode = "train";
  #part: StepPart = WHOLE_STEP;
  /** Rows of the step's parts so far. */
  #rows = 0;
  /** Rows of this part whose h_L has not been sent. */
  #left = 0;
  /** True if the last batch came with the word that the head modules before it are the best so far. */
  best = false;

  /**
   * Talks to the data device of a run.
   *
   * @param engine The engine of the base model.
   * @param peer The data device.
   * @param hidden d, hidden size of the model.
   * @param sharesLoss True if the data device said that it shares its loss.
   * @param waits Counts the time spent waiting for the data device.
   * @param accumulate Most parts of a training step, see `RunSettings`. @default {1}
   */
  constructor(
    engine: Engine,
    peer: Peer,
    hidden: number,
    sharesLoss: boolean,
    waits: Waits,
    accumulate = 1,
  ) {
    this.#engine = engine;
    this.#peer = peer;
    this.#hidden = hidden;
    this.#sharesLoss = sharesLoss;
    this.#waits = waits;
    this.#accumulate = accumulate;
  }

  /** E of the next batch or of the step's next part; `null` when the data device has ended the run. */
  async next(step: number): Promise<EmbeddedBatch | null> {
    const peer = this.#peer;
    const next = await this.#waits.for(peer.next("data", `"embedding"`));
    this.best = next.meta.best === true;
    if (next.kind === "finished" && this.#isLast()) return null;
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
    this.#part = this.#partOf(frame, mode);
    this.#left = batch * length;
    this.#rows = this.#part.firstRow + this.#left;
    this.#mode = mode;
    const values = frame.tensors[0]!.data as Float32Array;
    const embedding = this.#engine.upload(values, batch * length, this.#hidden, "embedding from data device");
    return { embedding, batch, length, mode, part: this.#part };
  }

  #isLast(): boolean {
    return this.#part.index + 1 === this.#part.count;
  }

  /** Which part of the step a frame is: the one after the last, or the first one of a new step. */
  #partOf({ meta, step }: Frame, mode: StepMode): StepPart {
    const first = this.#isLast();
    const [index, count] = Array.isArray(meta.part) ? meta.part as unknown[] : [0, 1];
    const fits = index === (first ? 0 : this.#part.index + 1) &&
      (first
        ? Number.isInteger(count) && (count as number) >= 1 &&
          (count as number) <= (mode === "train" ? this.#accumulate : 1)
        : count === this.#part.count && mode === "train");
    if (!fits) {
      const error = new ProtocolError(
        `Cannot run step ${step} as ${
          first
            ? `its first part of at most ${this.#accumulate}, in training,`
            : `part ${this.#part.index + 1} of ${this.#part.count}`
        } must come next: current value is ${JSON.stringify(meta.part ?? null)?.slice(0, 80)}, "${mode}"`,
      );
      this.#peer.reject(error);
      throw error;
    }
    return { index: index as number, count: count as number, firstRow: first ? 0 : this.#rows };
  }

  /** Sends h_L, all of it or of one micro-batch; in training and for a probe waits for dh_L. */
  async loss(step: number, hidden: Tensor, probe = false, micro?: MicroBatch): Promise<LossResult> {
    const shape = [hidden.rows, hidden.columns];
    const at = { step, microBatch: micro?.index ?? 0 };
    const [values] = await this.#engine.read([hidden]);
    if (!probe) this.#left -= hidden.rows;
    const last = this.#left === 0 && this.#part.index + 1 === this.#part.count;
    await this.#peer.send("hidden", {
      ...at,
      meta: probe ? { probe } : {},
      tensors: [{ dtype: "f32", shape, data: values! }],
    });
    let gradient: Tensor | null = null;
    if (this.#mode === "train") {
      // The data device answers in the order in which it was asked.
      const frame = await this.#waits.for(this.#peer.receive("hiddenGradient", { ...at, shapes: [shape] }));
      const data = frame.tensors[0]!.data as Float32Array;
      gradient = this.#engine.upload(data, hidden.rows, hidden.columns, "dh_L");
    }
    if (!this.#sharesLoss || probe || !last) return { gradient, loss: null };
    try {
      // The loss of the whole step comes after its last gradient.
      const { meta } = await this.#waits.for(this.#peer.receive("loss", { step, shapes: [] }));
      return { gradient, loss: typeof meta.loss === "number" ? meta.loss : null };
    } catch (error) {
      gradient?.dispose();
      throw error;
    }
  }
}

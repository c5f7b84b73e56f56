/**
 * Generation through the split, as the data device drives it: it embeds the new tokens, the edge server
 * and the devices run the layers, and h_L comes back. Prompts, tokens and logits never leave the device.
 *
 * R = rows (continuations side by side), T = new tokens of each row, d hidden size.
 *
 * @module
 */

import type { Tensor } from "@edgetuner/kernels";
import { TokenSession } from "../generation/cached_session.ts";
import type { EmbeddingAndHead } from "../model/base.ts";
import type { Tape } from "../model/tape.ts";
import type { Peer } from "../protocol/peer.ts";

/** Continuations of one prompt, whose keys and values are at the edge server. */
export class RemoteSession extends TokenSession {
  readonly #peer: Peer;
  readonly #step: number;

  /**
   * Prepares a session of a run.
   *
   * @param peer The edge server.
   * @param ends Embedding, final norm and LM head.
   * @param step Training steps that the run has done.
   */
  constructor(peer: Peer, ends: EmbeddingAndHead, step: number) {
    super(ends);
    this.#peer = peer;
    this.#step = step;
  }

  /** Sends E of the new tokens and waits for their h_L. */
  protected override async hidden(
    tape: Tape,
    embedding: Tensor,
    rows: number,
    parents: readonly number[] | null,
  ): Promise<Tensor> {
    const { engine, rows: tokens, columns } = tape.own(embedding);
    const [values] = await engine.read([embedding]);
    const step = this.#step;
    await this.#peer.send("decode", {
      step,
      meta: parents === null ? {} : { parents: [...parents] },
      tensors: [{ dtype: "f32", shape: [rows, tokens / rows, columns], data: values! }],
    });
    const frame = await this.#peer.receive("hidden", { step, shapes: [[tokens, columns]] });
    return tape.own(engine.upload(frame.tensors[0]!.data as Float32Array, tokens, columns, "h_L"));
  }
}

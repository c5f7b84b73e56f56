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
import type { Frame, FrameOf, WireTensor } from "../protocol/frame.ts";
import { endedError, type Peer } from "../protocol/peer.ts";

/** How frames come to a session whose run trained before it. */
export interface GenerationLane {
  /** The next frame. */
  receive(): Promise<Frame>;
  /** Does a step again, if that is what an error says, and throws every other one; returns the end of the run, if it came. */
  repeats(error: unknown): Promise<FrameOf<"end"> | null>;
  /** The heads of every layer that are away, where others are than before. */
  onAway?(heads: readonly number[]): void;
}

/** Continuations of one prompt, whose keys and values are at the edge server. */
export class RemoteSession extends TokenSession {
  readonly #peer: Peer;
  readonly #step: number;
  readonly #lane: GenerationLane;
  #away: readonly number[] = [];

  /**
   * Prepares a session of a run.
   *
   * @param peer The edge server.
   * @param ends Embedding, final norm and LM head.
   * @param step Training steps that the run has done.
   * @param lane How frames come. @default {from the peer}
   */
  constructor(peer: Peer, ends: EmbeddingAndHead, step: number, lane?: GenerationLane) {
    super(ends);
    this.#peer = peer;
    this.#step = step;
    this.#lane = lane ?? {
      receive: () => peer.next("data", `"hidden"`),
      repeats: (error) => Promise.reject(error),
    };
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
    const tensor = { dtype: "f32", shape: [rows, tokens / rows, columns], data: values! };
    const frame = await this.#answer(tensor, parents);
    return tape.own(engine.upload(frame.tensors[0]!.data as Float32Array, tokens, columns, "h_L"));
  }

  /** Asks, and once more where the last training step has begun again meanwhile. */
  async #answer(tensor: WireTensor, parents: readonly number[] | null): Promise<FrameOf<"hidden">> {
    const step = this.#step;
    const [tokens, columns] = [tensor.data.length / tensor.shape[2]!, tensor.shape[2]!];
    for (;;) {
      try {
        const meta = parents === null ? {} : { parents: [...parents] };
        await this.#peer.send("decode", { step, meta, tensors: [tensor] });
        const frame = await this.#lane.receive();
        if (frame.kind === "end") throw endedError(this.#peer.name, frame.meta.reason);
        const answer = this.#peer.check(frame, "hidden", { step, shapes: [[tokens, columns]] });
        const { away = [] } = answer.meta;
        if (away.join() !== this.#away.join()) this.#lane.onAway?.(away);
        this.#away = away;
        return answer;
      } catch (error) {
        const end = await this.#lane.repeats(error);
        if (end !== null) throw endedError(this.#peer.name, end.meta.reason);
      }
    }
  }
}

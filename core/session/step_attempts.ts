/**
 * Steps that begin again when a device is lost: without its heads, as if a pruner had pruned them.
 *
 * @module
 */

import type { EmbeddedBatch, StepMode } from "../contracts/ports.ts";
import { probeStep, runStep, type StepContext, type StepOutcome } from "../train/step.ts";
import { awayHeads, type HeadMember } from "./head_members.ts";
import type { DataSource } from "./data_source.ts";
import type { RemoteHeads } from "./remote_heads.ts";

/** What a run does about a device that is lost. */
export type LossPolicy = "prune" | "wait" | "stop";

/** All that a run may do about it. */
export const LOSS_POLICIES = ["prune", "wait", "stop"] as const satisfies readonly LossPolicy[];

/** What may be done again works with this. */
export interface AttemptsOptions {
  /** The devices with heads. */
  readonly devices: readonly HeadMember[];
  /** Their side of the protocol. */
  readonly heads: RemoteHeads;
  /** Called before a step or pass: takes in devices that have come back. */
  admit(step: number): Promise<void>;
  /**
   * Called before something begins again; waits while it cannot.
   *
   * @param error Why it does.
   * @throws If the run cannot go on.
   */
  goOn(step: number, error: Error): Promise<void>;
}

/** Does what needs the devices with heads as often as it takes: without those who are lost in it. */
export class Attempts {
  readonly #options: AttemptsOptions;
  /** Times that something has begun again. */
  protected attempt = 0;
  /** Why the current attempt cannot be ended. */
  protected lost: Error | null = null;

  /** See `AttemptsOptions`. */
  constructor(options: AttemptsOptions) {
    this.#options = options;
  }

  /** A device is lost: all that is waited for in this attempt is waited for no longer. */
  lose(error: Error): void {
    this.lost ??= error;
  }

  /** The heads of every layer whose devices are away. */
  get away(): number[] {
    return awayHeads(this.#options.devices);
  }

  /**
   * A pass of generation.
   *
   * @param step Training steps done.
   * @param pass Does it; called again where a device with heads is lost in it.
   */
  async decode(step: number, pass: () => Promise<void>): Promise<void> {
    await this.begin(step);
    for (;;) {
      try {
        return await pass();
      } catch (error) {
        if (this.lost === null) throw error;
        await this.restart(step);
      }
    }
  }

  /** Whoever has come back is there, and whoever left between two steps is not. */
  protected async begin(step: number): Promise<void> {
    const { heads } = this.#options;
    await this.#options.admit(step);
    this.lost = null;
    heads.missEnded();
    const lost = this.lost as Error | null;
    if (lost !== null) await this.#options.goOn(step, lost);
    this.lost = null;
  }

  /** Tells the devices with heads that something begins again, once it can. */
  protected async restart(step: number): Promise<void> {
    // Another device may be lost while the others are told.
    while (this.lost !== null) {
      const lost: Error = this.lost;
      this.lost = null;
      await this.#options.goOn(step, lost);
      await this.#options.heads.restart(step, ++this.attempt);
    }
  }
}

/** What steps that may begin again work with. */
export interface StepAttemptsOptions extends AttemptsOptions {
  /** What a step works on. */
  readonly step: StepContext;
  /** The data devices' side of the protocol. */
  readonly data: DataSource;
  /** True if an error is that the data device is lost. */
  losesData(step: number, error: unknown): boolean;
}

/** Runs steps, each as often as it takes. */
export class StepAttempts extends Attempts {
  readonly #options: StepAttemptsOptions;

  /** See `StepAttemptsOptions`. */
  constructor(options: StepAttemptsOptions) {
    super(options);
    this.#options = options;
  }

  /** As of all that may be done again; the data is not waited for either. */
  override lose(error: Error): void {
    super.lose(error);
    this.#options.data.interrupt();
  }

  /** A step, with the mask that was applied at last; `null` if it does not take place, as its data is lost. */
  async run(step: number, batch: EmbeddedBatch, mask: Uint8Array): Promise<StepOutcome | null> {
    const { step: context, devices, heads, data } = this.#options;
    const { mode } = batch;
    let current = batch;
    await this.begin(step);
    if (!data.hasBatch) {
      const again = await this.#repeat(step, mode);
      batch.embedding.dispose();
      if (again === null) return null;
      current = again;
    }
    for (;;) {
      try {
        const outcome = await runStep(context, step, current, mask);
        const away = awayHeads(devices);
        return { ...outcome, ...(away.length > 0 && { mask: heads.mask ?? mask, away }) };
      } catch (error) {
        const again = await this.#again(step, mode, error);
        if (again === null) return null;
        current = again;
      }
    }
  }

  /** The gradients' norms before a step; the batch is left as it is. */
  async probe(step: number, batch: EmbeddedBatch): Promise<Float32Array> {
    await this.begin(step);
    if (!this.#options.data.hasBatch) {
      const again = await this.#repeat(step, batch.mode);
      again?.embedding.dispose();
    }
    for (;;) {
      try {
        return await probeStep(this.#options.step, step, batch);
      } catch (error) {
        const again = await this.#again(step, batch.mode, error);
        again?.embedding.dispose();
      }
    }
  }

  /** Tells everyone that a step begins again; returns its batch. */
  async #again(step: number, mode: StepMode, error: unknown): Promise<EmbeddedBatch | null> {
    if (this.lost === null && this.#options.losesData(step, error)) this.lost = error as Error;
    if (this.lost === null) throw error;
    await this.restart(step);
    return await this.#repeat(step, mode, this.attempt);
  }

  /** Asks for the batch of a step once more. */
  async #repeat(
    step: number,
    mode: StepMode,
    attempt: number = ++this.attempt,
  ): Promise<EmbeddedBatch | null> {
    try {
      return await this.#options.data.repeat(step, { mode, attempt });
    } catch (again) {
      return await this.#again(step, mode, again);
    }
  }
}

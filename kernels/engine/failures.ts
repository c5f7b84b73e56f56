/**
 * What a GPU reports after the fact.
 *
 * @module
 */

import { GpuError, ShaderError } from "../errors.ts";

/**
 * The failures of a device: validation, memory, loss. A scope is always open: without one an error is told in an event,
 * which comes only after the caller has waited for something else, and results that were never computed count
 * until then.
 */
export class Failures {
  readonly #device: GPUDevice;
  #failure: Error | null = null;
  /** Reports asked for and not yet answered. */
  #reports: Promise<void>[] = [];
  #expectsLoss = false;

  /** Begins to listen. */
  constructor(device: GPUDevice) {
    this.#device = device;
    device.addEventListener("uncapturederror", (event) => {
      (event as Event).preventDefault?.();
      this.#fail(new GpuError((event as GPUUncapturedErrorEvent).error.message));
    });
    device.pushErrorScope("validation");
    device.lost.then((info) => {
      if (!this.#expectsLoss) this.#fail(new GpuError(`GPU device lost (${info.reason}): ${info.message}`));
    });
  }

  /** Asks about everything since the last call. */
  check(): void {
    this.#report((error) => new GpuError(error.message));
    this.#device.pushErrorScope("validation");
  }

  /** Asks about what `run` does, apart from the rest. */
  checkWithin<T>(run: () => T, describe: (error: GPUError, result: T) => Promise<GpuError>): T {
    this.#device.pushErrorScope("validation");
    const result = run();
    this.#report((error) => describe(error, result));
    return result;
  }

  /** Waits for the answers to all questions. */
  async settle(): Promise<void> {
    await Promise.all(this.#reports.splice(0));
  }

  /** @throws {GpuError} The first failure, if there was one. */
  throwIfFailed(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** The device is about to be destroyed. */
  expectLoss(): void {
    this.#expectsLoss = true;
  }

  #report(describe: (error: GPUError) => GpuError | Promise<GpuError>): void {
    const answer = this.#device.popErrorScope().catch(() => null); // a lost device is told elsewhere
    this.#reports.push(answer.then(async (error) => {
      if (error !== null) this.#fail(await describe(error));
    }));
  }

  #fail(error: Error): void {
    // A kernel that does not compile fails twice, the second time when it is dispatched.
    if (this.#failure === null || (error instanceof ShaderError && !(this.#failure instanceof ShaderError))) {
      this.#failure = error;
    }
  }
}

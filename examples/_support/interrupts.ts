/**
 * Ctrl-C: the first ends a program in good order, the second at once.
 *
 * @module
 */

/** Listens for Ctrl-C, and where there is one for the request to terminate, until it is disposed. */
export class Interrupts implements Disposable {
  readonly #signals: readonly Deno.Signal[] = Deno.build.os === "windows"
    ? ["SIGINT"]
    : ["SIGINT", "SIGTERM"];
  readonly #listener: () => void;
  #asked = false;

  /** @param onFirst Called at the first one. */
  constructor(onFirst: () => void = () => {}) {
    this.#listener = () => {
      if (this.#asked) Deno.exit(130);
      this.#asked = true;
      onFirst();
    };
    for (const signal of this.#signals) Deno.addSignalListener(signal, this.#listener);
  }

  /** True once the program was asked to end. */
  get asked(): boolean {
    return this.#asked;
  }

  [Symbol.dispose](): void {
    for (const signal of this.#signals) Deno.removeSignalListener(signal, this.#listener);
  }
}

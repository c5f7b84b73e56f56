/**
 * What people type.
 *
 * @module
 */

/** Lines that are typed, or come through a pipe; `null` after the last one. */
export class Lines {
  readonly #reader = Deno.stdin.readable.pipeThrough(new TextDecoderStream()).getReader();
  #rest = "";

  /** The next line; `null` after the last one. */
  async next(): Promise<string | null> {
    for (;;) {
      const at = this.#rest.indexOf("\n");
      if (at >= 0) {
        const line = this.#rest.slice(0, at);
        this.#rest = this.#rest.slice(at + 1);
        return line.replace(/\r$/, "");
      }
      const { done, value } = await this.#reader.read();
      if (!done) {
        this.#rest += value;
        continue;
      }
      const last = this.#rest;
      this.#rest = "";
      return last === "" ? null : last;
    }
  }
}

/**
 * The loss of a validation from those of its batches.
 *
 * @module
 */

/**
 * Mean of losses by tokens: batches may have different numbers of tokens that count. All who tell the loss of a
 * validation take it from here, so that it is one number.
 */
export class TokenMean {
  #sum = 0;
  #tokens = 0;
  #batches = 0;

  /** Batches so far. */
  get batches(): number {
    return this.#batches;
  }

  /** Tokens so far. */
  get tokens(): number {
    return this.#tokens;
  }

  /** The mean so far; NaN without any token. */
  get value(): number {
    return this.#sum / this.#tokens;
  }

  /**
   * Takes in a batch.
   *
   * @param loss Mean loss of its tokens, in nats.
   * @param tokens How many tokens that is the mean of.
   */
  add(loss: number, tokens: number): void {
    this.#sum += loss * tokens;
    this.#tokens += tokens;
    this.#batches++;
  }
}

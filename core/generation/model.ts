/**
 * What decoding asks of a language model: logits of the next token, for several continuations of a
 * prompt side by side.
 *
 * R = rows (continuations side by side), V = vocabulary.
 *
 * @module
 */

/** Continuations of one prompt; their keys and values are the implementation's to keep. */
export interface DecodingSession {
  /** V, vocabulary entries. */
  readonly vocabulary: number;
  /** Tokens that fit, prompt included. */
  readonly contextLength: number;
  /**
   * Takes the prompt; the session has one row then.
   *
   * @param prompt Its tokens, at least one.
   * @returns Logits of the token after it, [1, V].
   */
  start(prompt: readonly number[]): Promise<Float32Array>;
  /**
   * Appends a token to each of R rows.
   *
   * @param tokens One token per new row, [R].
   * @param parents The row that each new row continues, [R]; rows without children are dropped.
   * @returns Logits of the tokens after them, [R, V].
   */
  append(tokens: readonly number[], parents: readonly number[]): Promise<Float32Array>;
}

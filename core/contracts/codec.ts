/**
 * What a wire codec is.
 *
 * @module
 */

/**
 * One stream of tensors: what one side sends to the other of one kind, layer and micro-batch, step
 * after step. Both ends have one, each with a state of its own.
 */
export interface CodecStream {
  /** `sent` where tensors are encoded, `received` where they are decoded. */
  readonly direction: "sent" | "received";
  /** Kind of frame. */
  readonly kind: string;
  /** Layer, from 0. */
  readonly layer: number;
  /** Micro-batch, from 0. */
  readonly microBatch: number;
  /** Position among the tensors of the frame. */
  readonly tensor: number;
  /** What the codec keeps from one tensor of the stream to the next; `undefined` before the first. */
  state: unknown;
}

/** Writes float tensors as bytes and reads them back. */
export interface WireCodec {
  /** Name in run settings and on the wire: 1 to 32 characters, not `u8`. Says all that the other side must know. */
  readonly name: string;
  /** Bytes of a tensor of this shape, whatever its values: the traffic formula counts with it. */
  byteLength(shape: readonly number[]): number;
  /**
   * Writes a tensor. Must not change `values` or keep them.
   *
   * @param values Row-major, as many as the shape holds.
   * @param shape Shape; rows are along the last dimension.
   * @param stream Where the tensor belongs, with the state to use and to replace.
   * @returns Exactly `byteLength(shape)` bytes; may share memory with `values`.
   */
  encode(values: Float32Array, shape: readonly number[], stream: CodecStream): Uint8Array;
  /**
   * Reads a tensor.
   *
   * @param bytes Exactly `byteLength(shape)` bytes, at the start of a buffer of their own.
   * @param shape Shape.
   * @param stream Where the tensor belongs, with the state to use and to replace.
   * @returns As many values as the shape holds; may share memory with `bytes`.
   * @throws {ProtocolError} If the bytes are not what `encode` writes. Whatever else is thrown also ends the connection.
   */
  decode(bytes: Uint8Array, shape: readonly number[], stream: CodecStream): Float32Array;
}

/** Elements of a shape. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

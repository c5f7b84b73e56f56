/**
 * What the codec of a run keeps from one tensor to the next of the same place.
 *
 * @module
 */

import { type CodecStream, elementsOf, type WireCodec } from "../contracts/codec.ts";
import { PluginError } from "../contracts/errors.ts";
import type { WireTensor } from "./frame.ts";
import { type FrameKind, type Lane, MESSAGES } from "./messages.ts";

/** Where a tensor belongs. */
export type StreamPlace = Omit<CodecStream, "state">;

/** What the streams of a lane held at one time, by their places. */
export type KeptStreams = ReadonlyMap<string, unknown>;

/** The streams of a channel. */
export class CodecStreams {
  readonly #streams = new Map<string, CodecStream>();

  /**
   * Writes a tensor; bytes stay as they are.
   *
   * @throws {PluginError} If the codec writes another number of bytes than it says.
   */
  encode(codec: WireCodec, tensor: WireTensor, place: StreamPlace): WireTensor {
    const { dtype, shape, data } = tensor;
    if (dtype === "u8") return tensor;
    const stream = this.#stream(place);
    const bytes = codec.encode(data as Float32Array, shape, stream);
    const length = codec.byteLength(shape);
    if (!(bytes instanceof Uint8Array) || bytes.length !== length) {
      throw new PluginError(
        `Cannot send "${stream.kind}" as codec "${codec.name}" must write ${length} bytes for [${shape}]: it wrote ${bytes?.length}`,
      );
    }
    return { dtype: codec.name, shape, data: bytes };
  }

  /**
   * Reads a tensor; bytes stay as they are.
   *
   * @throws {RangeError} If the tensor has another number of bytes than the codec says.
   * @throws {TypeError} If the codec gives something else than as many numbers as the shape holds.
   */
  decode(codec: WireCodec, tensor: WireTensor, place: StreamPlace): WireTensor {
    const { dtype, shape, data } = tensor;
    if (dtype === "u8") return tensor;
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const length = codec.byteLength(shape);
    if (bytes.length !== length) {
      throw new RangeError(`[${shape}] must have ${length} bytes: there are ${bytes.length}`);
    }
    const values = codec.decode(bytes, shape, this.#stream(place));
    if (!(values instanceof Float32Array) || values.length !== elementsOf(shape)) {
      throw new TypeError(`[${shape}] must give ${elementsOf(shape)} numbers: it gave ${values?.length}`);
    }
    return { dtype: "f32", shape, data: values };
  }

  /** What the streams of a lane hold now. A codec replaces its state, so nothing is copied. */
  keep(lane: Lane): KeptStreams {
    const kept = new Map<string, unknown>();
    for (const [key, { kind, state }] of this.#streams) {
      if (state !== undefined && MESSAGES[kind as FrameKind].lane === lane) kept.set(key, state);
    }
    return kept;
  }

  /** The streams of a lane hold again what they held. */
  goBack(lane: Lane, kept: KeptStreams): void {
    for (const [key, stream] of this.#streams) {
      if (MESSAGES[stream.kind as FrameKind].lane === lane) stream.state = kept.get(key);
    }
  }

  #stream(place: StreamPlace): CodecStream {
    const { direction, kind, layer, microBatch, tensor } = place;
    const key = `${direction} ${kind} ${layer} ${microBatch} ${tensor}`;
    let stream = this.#streams.get(key);
    if (stream === undefined) this.#streams.set(key, stream = { ...place, state: undefined });
    return stream;
  }
}

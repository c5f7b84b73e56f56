/**
 * What an edge server gives a device with data that has no model: embedding, final norm, LM head and tokenizer.
 *
 * @module
 */

import {
  isEndTensor,
  isGguf,
  openModelFolder,
  streamedPieces,
  type TensorDigest,
  tokenizerFilesOf,
} from "@edgetuner/core";
import type { ServedModel } from "@edgetuner/transport/server";

/** What is known of the model of a run. */
export interface KnownModel {
  /** Its folder. */
  readonly path: string;
  /** Its fingerprint. */
  readonly fingerprint: string;
  /** Digests of its weights. */
  readonly digests: readonly TensorDigest[];
}

/** Serves parts of a model; `null` for a GGUF file, whose weights have another form. */
export function servedModel({ path, fingerprint, digests }: KnownModel): ServedModel | null {
  if (isGguf(path) || digests.length === 0) return null;
  let opened: ReturnType<typeof openModelFolder> | null = null;
  const open = () => opened ??= openModelFolder(path);
  const ends = new Set(digests.map(({ name }) => name).filter(isEndTensor));
  return {
    async about() {
      const { config } = await open();
      const { json, options } = await tokenizerFilesOf(path);
      const { name: _, ...named } = options;
      return { config, fingerprint, tensors: digests, ends: [...ends], tokenizer: { json, options: named } };
    },
    async values(name) {
      return ends.has(name) ? streamedPieces((await open()).weights, name) : null;
    },
  };
}

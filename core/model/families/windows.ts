/**
 * Sliding windows as configurations say them: layers in which a token sees only itself and some before it.
 *
 * @module
 */

import { ModelFileError } from "../../contracts/errors.ts";
import { alternatives, showValue } from "../../contracts/plain_text.ts";
import type { ConfigFields } from "../weights.ts";

/** Kind of a layer: whether a token sees all tokens before it, or some. */
export type LayerKind = "full_attention" | "sliding_attention";

const LAYER_KINDS: readonly LayerKind[] = ["full_attention", "sliding_attention"];

/** Sliding windows of a model, named as in its `config.json`; without them every token sees all before it. */
export interface WindowConfig {
  /** Tokens that each sees at most in layers that slide: itself and those just before it. */
  readonly sliding_window?: number;
  /** Kind of each layer. */
  readonly layer_types?: readonly LayerKind[];
}

/**
 * Reads the kind of each layer.
 *
 * @param fields The whole configuration.
 * @param layers Number of layers.
 * @param otherwise Kind of a layer, where the configuration does not say it.
 * @throws {ModelFileError} If it is no list of kinds, one for each layer.
 */
export function layerKinds(
  fields: ConfigFields,
  layers: number,
  otherwise: (layer: number) => LayerKind,
): readonly LayerKind[] {
  const kinds = fields.get("layer_types") ?? Array.from({ length: layers }, (_, l) => otherwise(l));
  const known = (kind: unknown): kind is LayerKind => LAYER_KINDS.some((k) => k === kind);
  if (Array.isArray(kinds) && kinds.length === layers && kinds.every(known)) return kinds;
  throw new ModelFileError(
    `Cannot load the model as layer_types must be ${
      alternatives(LAYER_KINDS)
    } for each of ${layers} layers: current value is ${showValue(kinds)}`,
  );
}

/**
 * Windows of some layers.
 *
 * @param kinds Kind of each layer.
 * @param window Window of those that slide; `undefined` if there is none.
 * @param positions Longest sequence: a window as long as that changes nothing.
 * @throws {ModelFileError} If a layer slides and there is no window.
 */
export function windowsOf(
  kinds: readonly LayerKind[],
  window: number | undefined,
  positions: number,
): WindowConfig {
  if (!kinds.includes("sliding_attention")) return {};
  if (window === undefined) {
    throw new ModelFileError(
      "Cannot load the model as sliding_window must be a positive integer where a layer slides: current value is null",
    );
  }
  return window >= positions ? {} : { sliding_window: window, layer_types: kinds };
}

/**
 * Windows of families in which `use_sliding_window` turns them on, in layers from `max_window_layers` on.
 *
 * @throws {ModelFileError} If a field is out of range.
 */
export function windowsFrom(
  fields: ConfigFields,
  { num_hidden_layers: layers, max_position_embeddings: positions }: {
    readonly num_hidden_layers: number;
    readonly max_position_embeddings: number;
  },
): WindowConfig {
  const used = fields.boolean("use_sliding_window") ?? false;
  // The families' own defaults, where a file does not say them.
  const window = used ? fields.nullable("sliding_window", 4096) : undefined;
  const first = fields.count("max_window_layers", 28);
  const kinds = layerKinds(
    fields,
    layers,
    (l) => window !== undefined && l >= first ? "sliding_attention" : "full_attention",
  );
  return windowsOf(kinds, window, positions);
}

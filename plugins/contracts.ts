/**
 * What the author of a pruner or a codec needs: the interfaces, what they are given, their checks and errors. It
 * loads no tokenizer, no file format and no shader.
 *
 * @example
 * ```ts
 * import { checkPruner, type Pruner } from "@edgetuner/plugins/contracts";
 *
 * const everyOther: Pruner<null> = {
 *   name: "every other head",
 *   needs: [],
 *   init: () => null,
 *   decide: ({ step }, state, { layers, heads }) => [
 *     { mask: Uint8Array.from({ length: layers * heads }, (_, i) => (i + step) % 2) },
 *     state,
 *   ],
 * };
 * checkPruner(everyOther);
 * ```
 *
 * @module
 */

export * from "@edgetuner/core/contracts";

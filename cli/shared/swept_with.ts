/**
 * Pruner and codecs of a sweep.
 *
 * @module
 */

import { findRunCodecs, type Pruner, type RunCodecs, type WireCodec } from "@edgetuner/core";
import type { Engine } from "@edgetuner/kernels";
import { codecChoice, codecsOf } from "../flags/codecs.ts";
import { makePruner, prunerChoice } from "../flags/pruners.ts";

/** What a sweep is run with. */
export interface SweptWith {
  /** The pruner; `null` for a share of the heads, evenly. */
  readonly pruner: Pruner | null;
  /** The codecs of the run. */
  readonly codec: RunCodecs;
  /** Those that are not built in. */
  readonly codecs: readonly WireCodec[];
}

/**
 * Makes what the flags ask for.
 *
 * @throws {UsageError} If a name is not known.
 */
export async function sweptWith(
  flags: { readonly pruner: string; readonly codec: string },
  engine: Engine,
): Promise<SweptWith> {
  const { name, modules } = await codecChoice(flags.codec);
  const codecs = await codecsOf(modules);
  const pruner = flags.pruner === "" ? null : await makePruner(prunerChoice(flags.pruner, {}), engine);
  return { pruner, codec: findRunCodecs(name, codecs), codecs };
}

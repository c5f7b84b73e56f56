/**
 * Loads a model and prints what that took at most: for tests of memory, as a process of its own.
 *
 * Arguments: the model (a folder or a GGUF file), the format of its weights.
 *
 * @module
 */

import type { BaseWeights } from "@edgetuner/core";
import { measureLoading } from "../../bench/load_memory.ts";

if (import.meta.main) {
  const [path, baseWeights] = Deno.args as [string, BaseWeights];
  console.log(JSON.stringify(await measureLoading(path, baseWeights)));
}

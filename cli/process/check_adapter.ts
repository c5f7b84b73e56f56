/**
 * Ends with exit code 0 if the engine finds an adapter. The set-up step asks in this way, so that what it finds is
 * what programs and tests find.
 *
 * @module
 */

import { NoAdapterError, requestAdapter } from "@edgetuner/kernels";

if (import.meta.main) {
  try {
    await requestAdapter((navigator as { gpu?: GPU }).gpu);
  } catch (error) {
    if (!(error instanceof NoAdapterError)) throw error;
    console.error(error.message);
    Deno.exitCode = 1;
  }
}

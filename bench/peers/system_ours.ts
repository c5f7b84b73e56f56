/**
 * A LoRA step on EdgeTuner's engine, as a process.
 *
 * @module
 */

import { runChild } from "./child.ts";
import { startOurs } from "./ours.ts";

await runChild((options) => startOurs(options));

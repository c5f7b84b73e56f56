/**
 * The worker of a device with data, and of one that takes adapters away: it knows model families, tokenizers and formats
 * of texts too.
 *
 * @module
 */

import { runUserDevice } from "@edgetuner/core/device_more";
import { downloadOf } from "./download.ts";
import type { ToWorker } from "./messages.ts";
import { TabDevice } from "./tab_device.ts";

const device = new TabDevice((message) => postMessage(message), { downloadOf, runDevice: runUserDevice });

addEventListener("message", ({ data }: MessageEvent<ToWorker>) => void device.hear(data));

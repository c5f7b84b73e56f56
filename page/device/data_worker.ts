/**
 * The worker of a device with data: it knows model families, tokenizers and formats of texts too.
 *
 * @module
 */

import { runUserDevice } from "@edgetuner/core/device_more";
import type { ToWorker } from "./messages.ts";
import { openOwnModel } from "./model_data.ts";
import { openOwnData } from "./own_data.ts";
import { TabDevice } from "./tab_device.ts";

const device = new TabDevice((message) => postMessage(message), {
  runDevice: runUserDevice,
  openModel: openOwnModel,
  openData: openOwnData,
});

addEventListener("message", ({ data }: MessageEvent<ToWorker>) => void device.hear(data));

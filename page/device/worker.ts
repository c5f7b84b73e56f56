/**
 * The worker of the device's page: GPU and protocol are here, where hidden pages are not slowed down.
 *
 * @module
 */

import type { ToWorker } from "./messages.ts";
import { TabDevice } from "./tab_device.ts";

const device = new TabDevice((message) => postMessage(message));

addEventListener("message", ({ data }: MessageEvent<ToWorker>) => void device.hear(data));

/**
 * The pages that browsers load: a dashboard of runs, and a tab as a device. They are bundled already; `transport/server` serves them.
 *
 * @module
 */

import type { PageFile } from "@edgetuner/transport";
import dashboard from "./generated/dashboard.json" with { type: "json" };
import device from "./generated/device.json" with { type: "json" };

/** Files of all pages, by the path that they are served at. */
export const PAGE_FILES: ReadonlyMap<string, PageFile> = new Map<string, PageFile>([
  ...Object.entries(dashboard),
  ...Object.entries(device),
]);

/**
 * Tabs that take part in runs.
 *
 * @module
 */

import type { Chromium, Tab } from "../../support/chromium.ts";
import { until } from "../../support/until.ts";
import type { TabRun } from "./_run.ts";

/** Opens the page of a run and takes part with heads. */
export async function takePart(
  browser: Chromium,
  run: TabRun,
  { name = "phone", query = "", tab: opened }: {
    readonly name?: string;
    readonly query?: string;
    /** The page is open already. */
    readonly tab?: Tab;
  } = {},
): Promise<Tab> {
  const tab = opened ?? await browser.open(run.pageOn(query));
  await tab.shows("What leaves this device");
  await tab.fill("name", name);
  await tab.click("Take part");
  await until(() => run.server.devices.some((d) => d.name === name && d.connected), `${name} joins`);
  return tab;
}

/** The last step of a run; -1 before the first. */
export function stepOf(run: TabRun): number {
  return run.server.latest?.step ?? -1;
}

/** Waits until so many more steps are done. */
export async function moreSteps(run: TabRun, count: number, limitMs = 5000): Promise<void> {
  const from = stepOf(run);
  await until(() => stepOf(run) >= from + count, `${count} more steps`, limitMs);
}

/**
 * Colours of runs and systems: the same one for the same name in all plots.
 *
 * @module
 */

import { useEffect, useState } from "preact/hooks";

/** Colours that stay apart for people who see colours differently, by names of style sheets. */
export const COLOURS: readonly string[] = [
  "--series-1",
  "--series-2",
  "--series-3",
  "--series-4",
  "--series-5",
  "--series-6",
];

/** Runs in the order in which they were first shown. */
const shownRuns: string[] = [];

/** The colour of a run, by the name that the style sheet has for it: it stays the same while the page is open. */
export function colourOf(run: string): string {
  if (!shownRuns.includes(run)) shownRuns.push(run);
  return COLOURS[shownRuns.indexOf(run) % COLOURS.length]!;
}

/** A colour of the style sheet as it is now: light or dark. */
export function resolved(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** True while the page is dark; changes with the system's. */
export function useIsDark(): boolean {
  const query = matchMedia("(prefers-color-scheme: dark)");
  const [isDark, setDark] = useState(query.matches);
  useEffect(() => {
    const hear = () => setDark(query.matches);
    query.addEventListener("change", hear);
    return () => query.removeEventListener("change", hear);
  }, []);
  return isDark;
}

/**
 * Runs of now and before.
 *
 * @module
 */

import type { JSX } from "preact";
import { compare, compared, listed, type ListedRun, show, shown } from "./state.ts";
import { count, figure, moment } from "./numbers.ts";
import { Status } from "./status.tsx";

/** The list of runs, to choose one and to lay others over it. */
export function RunList(): JSX.Element {
  return (
    <nav class="runs" aria-label="Runs">
      <h2>Runs</h2>
      <ul>
        {listed.value.map((run) => <Run key={run.run} run={run} />)}
      </ul>
    </nav>
  );
}

/** A run as it is now: of the one that is shown more is known than when the list was read. */
function asItIs(run: ListedRun): ListedRun {
  const state = shown.value;
  const latest = state?.run === run.run ? state.latest.value : null;
  if (latest === null) return run;
  return { ...run, steps: Math.max(run.steps, latest.step + 1), loss: latest.loss ?? run.loss };
}

function Run({ run: entry }: { readonly run: ListedRun }): JSX.Element {
  const { run, status, steps, planned, loss, started } = asItIs(entry);
  const isShown = shown.value?.run === run;
  const isCompared = compared.value.some((series) => series.run === run);
  return (
    <li>
      <button
        type="button"
        class="run"
        aria-current={isShown ? "true" : undefined}
        onClick={() => void show(run)}
      >
        <span class="name">{run}</span>
        <Status status={status} />
        <span class="quiet">
          {count(steps)} of {count(planned)} steps{loss === null ? "" : `, loss ${figure(loss)}`}
        </span>
        {started === null ? null : <span class="quiet">{moment(started)}</span>}
      </button>
      {isShown ? null : (
        <label class="check">
          <input
            type="checkbox"
            checked={isCompared}
            aria-label={`Compare with ${run}`}
            onChange={({ currentTarget }) => void compare(run, { isWanted: currentTarget.checked })}
          />
          Compare
        </label>
      )}
    </li>
  );
}

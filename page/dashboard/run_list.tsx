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

function Run({ run: { run, status, steps, planned, loss, started } }: {
  readonly run: ListedRun;
}): JSX.Element {
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

/**
 * A run: how it is, and what can be done to it.
 *
 * @module
 */

import { signal } from "@preact/signals";
import type { JSX } from "preact";
import { AskFirst } from "./ask_first.tsx";
import type { SeriesJson } from "@edgetuner/transport/control";
import { Chart, type Line } from "./chart.tsx";
import { colourOf } from "./colours.ts";
import { Devices } from "./devices.tsx";
import { Happened } from "./happened.tsx";
import { Heads } from "./heads.tsx";
import { bytes, count, figure, moment, span } from "./numbers.ts";
import { Owners } from "./owners.tsx";
import { Facts } from "../shared/facts.tsx";
import { compared, type RunState, steer } from "./state.ts";
import { Status } from "./status.tsx";
import { Times } from "./times.tsx";
import { Traffic } from "./traffic.tsx";

/** A run. */
export function RunView({ state }: { readonly state: RunState }): JSX.Element {
  return (
    <>
      <Head state={state} />
      <Losses state={state} />
      <Devices state={state} />
      <div class="pair">
        <Times state={state} />
        <Traffic state={state} />
      </div>
      <Owners state={state} />
      <Heads state={state} />
      <Happened state={state} />
    </>
  );
}

function Head({ state }: { readonly state: RunState }): JSX.Element {
  const { status, stored, live, series, latest, run } = state;
  const settings = live.value?.settings ?? stored.value?.settings;
  const planned = settings?.steps ?? 0;
  const done = Math.max(stored.value?.steps ?? 0, (series.value?.step.at(-1) ?? -1) + 1);
  const facts: (readonly [string, string])[] = [
    ["Steps", `${count(done)} of ${count(planned)}`],
    ["Loss", figure(series.value?.loss.at(-1))],
    ["Validation", figure(series.value?.validation.loss.at(-1))],
    ["Bytes a step", bytes(series.value?.bytes.at(-1) ?? 0)],
    ["Time a step", span((series.value?.times.total.at(-1) ?? 0) / 1000)],
    ["Heads kept", keptText(state)],
    ["Time", span(series.value?.seconds.at(-1) ?? 0)],
    ["Began", stored.value === null ? "-" : moment(stored.value.started)],
  ];
  return (
    <section class="card" aria-labelledby="run-name">
      <div class="title">
        <h1 id="run-name">{run}</h1>
        <Status status={status.value} />
      </div>
      <progress max={Math.max(1, planned)} value={Math.min(done, planned)} aria-label="Steps done" />
      <Facts facts={facts} />
      {stored.value?.reason ? <p class="quiet">{stored.value.reason}</p> : null}
      <div class="buttons">
        {live.value === null ? null : <Steering status={status.value} />}
        {stored.value === null || latest.value === null && stored.value.records === 0 ? null : (
          <>
            <Download run={run} form="csv" />
            <Download run={run} form="json" />
          </>
        )}
      </div>
    </section>
  );
}

function keptText({ latest, heads }: RunState): string {
  const mask = latest.value?.mask ?? heads.value?.pruned.at(-1);
  if (mask === undefined || mask === null) return "-";
  const kept = [...mask].filter((pruned) => Number(pruned) === 0).length;
  return `${count(kept)} of ${count(mask.length)}`;
}

function Download({ run, form }: { readonly run: string; readonly form: "csv" | "json" }): JSX.Element {
  return (
    <a class="button" href={`/api/runs/${encodeURIComponent(run)}/records.${form}`} download>
      Download {form.toUpperCase()}
    </a>
  );
}

function Steering({ status }: { readonly status: string }): JSX.Element | null {
  if (status === "ended" || status === "failed") return null;
  return (
    <>
      {status === "paused"
        ? <button type="button" class="main" onClick={() => void steer("resume")}>Resume</button>
        : <button type="button" class="main" onClick={() => void steer("pause")}>Pause</button>}
      <AskFirst
        text="Stop"
        label="Stop the run"
        question="End the run after this step? Devices keep what they learnt."
        yes="End it"
        no="Go on"
        onYes={() => void steer("stop")}
      />
    </>
  );
}

/** What is along x. */
const AXES = {
  step: { name: "Steps", label: "Step", write: count },
  seconds: { name: "Time", label: "Time", write: span },
  sumBytes: { name: "Bytes", label: "Bytes", write: bytes },
} as const;
type Axis = keyof typeof AXES;

const axis = signal<Axis>("step");

function linesOf(series: SeriesJson, { name, x }: {
  readonly name: string;
  readonly x: Axis;
}): Line[] {
  const colour = colourOf(series.run);
  const { lossMin: low, lossMax: high, validation } = series;
  const validations = { name: `${name}validation`, colour, x: validation[x], y: validation.loss };
  return [
    { name: `${name}training`, colour, x: series[x], y: series.loss, band: { low, high } },
    ...(validation.step.length === 0 ? [] : [{ ...validations, isSparse: true }]),
  ];
}

function Losses({ state }: { readonly state: RunState }): JSX.Element {
  const series = state.series.value;
  const all = series === null ? [] : [series, ...compared.value];
  const isAlone = all.length < 2;
  const { label, write } = AXES[axis.value];
  const lines = all.flatMap((one) => linesOf(one, { name: isAlone ? "" : `${one.run} `, x: axis.value }));
  const isShared = lines.some(({ y }) => y.some((value) => value !== null));
  return (
    <section class="card" aria-labelledby="loss-title">
      <div class="title">
        <h2 id="loss-title">Loss</h2>
        <fieldset class="choice">
          <legend class="unseen">What is along the plot</legend>
          {Object.entries(AXES).map(([key, { name }]) => (
            <label key={key}>
              <input
                type="radio"
                name="axis"
                checked={axis.value === key}
                onChange={() => axis.value = key as Axis}
              />
              {name}
            </label>
          ))}
        </fieldset>
      </div>
      {isShared
        ? (
          <Chart
            label="Loss"
            xLabel={label}
            lines={lines}
            isWhole={axis.value !== "seconds"}
            writeX={write}
            writeY={figure}
          />
        )
        : <p class="quiet">No loss yet, or the data device does not share it.</p>}
    </section>
  );
}

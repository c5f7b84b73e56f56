/**
 * Where the time of a step goes.
 *
 * @module
 */

import type { JSX } from "preact";
import { span } from "./numbers.ts";
import type { RunState } from "./state.ts";

/** Steps that means are taken over. */
const RECENT = 20;

/** Parts of the time, as the edge server measures them. */
const PARTS = [
  { key: "own", name: "Edge server computes", colour: "--series-1" },
  { key: "readback", name: "Edge server waits for its GPU", colour: "--series-6" },
  { key: "codec", name: "Frames are written and read", colour: "--series-3" },
  { key: "wait", name: "Devices and the wire", colour: "--series-2" },
  { key: "prune", name: "Pruner", colour: "--series-5" },
] as const;

function mean(values: readonly number[]): number {
  const last = values.slice(-RECENT);
  return last.length === 0 ? 0 : last.reduce((a, b) => a + b, 0) / last.length;
}

/** The time of a step by part, and of each device. */
export function Times({ state }: { readonly state: RunState }): JSX.Element {
  const series = state.series.value;
  const total = mean(series?.times.total ?? []);
  const of = (name: "prune" | "readback" | "codec" | "wait") => mean(series?.times[name] ?? []);
  const named = { prune: of("prune"), readback: of("readback"), codec: of("codec"), wait: of("wait") };
  const own = Math.max(0, total - named.prune - named.readback - named.codec - named.wait);
  const sum = own + named.prune + named.readback + named.codec + named.wait;
  const parts = PARTS.map((part) => ({ ...part, ms: { own, ...named }[part.key] }));
  return (
    <section class="card" aria-labelledby="times-title">
      <h2 id="times-title">Time of a step</h2>
      {total === 0 ? <p class="quiet">No step yet.</p> : (
        <>
          <p class="quiet">
            {span(total / 1000)}, as a mean of the last steps.{sum > 1.01 * total
              ? " Parts of it go on at the same time."
              : ""}
          </p>
          <div class="stack" aria-hidden="true">
            {parts.filter(({ ms }) => ms > 0).map(({ key, colour, ms }) => (
              <span key={key} style={{ flexGrow: ms, background: `var(${colour})` }} />
            ))}
          </div>
          <table class="bars">
            <caption class="unseen">Time of a step by part</caption>
            <tbody>
              {parts.map(({ key, name, colour, ms }) => (
                <tr key={key}>
                  <th scope="row">
                    <span class="key" style={{ borderColor: `var(${colour})` }} />
                    {name}
                  </th>
                  <td>{span(ms / 1000)}</td>
                  <td>{Math.round(100 * ms / sum)} %</td>
                </tr>
              ))}
            </tbody>
          </table>
          <DeviceTimes state={state} />
        </>
      )}
    </section>
  );
}

/** How long each device took to answer in the last step, and how long it had nothing to do. */
function DeviceTimes({ state }: { readonly state: RunState }): JSX.Element | null {
  const latest = state.latest.value;
  const answers = latest?.answers ?? [];
  if (latest === null || answers.length === 0) return null;
  const nameOf = (first: number) =>
    state.devices.value.find(({ range, capacity }) => capacity > 0 && range?.first === first)?.name ??
      `Heads from ${first}`;
  const most = Math.max(latest.times.total, ...answers.map(({ ms }) => ms));
  return (
    <table class="bars">
      <caption>Devices in the last step</caption>
      <thead>
        <tr>
          <th scope="col">Device</th>
          <th scope="col">Wire and computing</th>
          <th scope="col">Waits</th>
        </tr>
      </thead>
      <tbody>
        {answers.map(({ first, ms }) => (
          <tr key={first}>
            <th scope="row">
              {nameOf(first)}
              <span class="bar" aria-hidden="true">
                <span style={{ width: `${100 * ms / most}%` }} />
              </span>
            </th>
            <td>{span(ms / 1000)}</td>
            <td>{span(Math.max(0, latest.times.total - ms) / 1000)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

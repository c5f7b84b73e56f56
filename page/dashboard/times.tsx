/**
 * Where the time of a step goes.
 *
 * @module
 */

import { type DeviceTime, deviceTimes } from "@edgetuner/transport/control";
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

/** What a device does in a step. */
const DEVICE_PARTS = [
  { key: "compute", name: "Computes", colour: "--series-2" },
  { key: "wire", name: "Wire", colour: "--series-4" },
  { key: "wait", name: "Waits", colour: "--idle" },
] as const;

/** Means of a device over the last steps, in milliseconds; `null` where it does not tell. */
interface MeanTime {
  readonly name: string;
  readonly compute: number | null;
  readonly wire: number;
  readonly wait: number;
}

function meanTimes({ recent, devices }: RunState): MeanTime[] {
  const all = Map.groupBy(
    recent.value.flatMap((record) => deviceTimes(record, devices.value)),
    ({ device, heads, first }) => `${device} ${heads} ${first}`,
  );
  return [...all.values()].map((times) => {
    const mean = (of: (time: DeviceTime) => number) =>
      times.reduce((sum, t) => sum + of(t), 0) / times.length;
    const { device, heads } = times[0]!;
    const hasBoth = devices.value.some(({ name, capacity, data }) => name === device && capacity > 0 && data);
    const tells = times.every(({ computeMs }) => computeMs !== null);
    const compute = tells ? mean(({ computeMs }) => computeMs!) : null;
    return {
      name: hasBoth ? `${device}, ${heads ? "heads" : "data"}` : device,
      compute,
      wire: mean(({ ms }) => ms) - (compute ?? 0),
      wait: mean(({ waitMs }) => waitMs),
    };
  });
}

/** Where the time of the last steps went on each device. */
function DeviceTimes({ state }: { readonly state: RunState }): JSX.Element | null {
  const times = meanTimes(state);
  if (times.length === 0) return null;
  return (
    <>
      <table class="bars">
        <caption>On each device</caption>
        <thead>
          <tr>
            <th scope="col">Device</th>
            {DEVICE_PARTS.map(({ key, name, colour }) => (
              <th key={key} scope="col">
                <span class="key block" style={{ background: `var(${colour})` }} />
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {times.map((time) => (
            <tr key={time.name}>
              <th scope="row">
                {time.name}
                <span class="stack thin" aria-hidden="true">
                  {DEVICE_PARTS.map(({ key, colour }) => (
                    <span key={key} style={{ flexGrow: time[key] ?? 0, background: `var(${colour})` }} />
                  ))}
                </span>
              </th>
              {DEVICE_PARTS.map(({ key }) => (
                <td key={key}>{time[key] === null ? "not told" : span(time[key] / 1000)}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      {times.some(({ compute }) => compute === null)
        ? <p class="quiet">Where a device does not tell what it computes, that is in the wire.</p>
        : null}
    </>
  );
}

/**
 * What the device would do, and the question whether it may.
 *
 * @module
 */

import type { JSX } from "preact";
import { about, adapter, data, forecast, join } from "./view_state.ts";
import { NameForm } from "./name_form.tsx";
import { Facts } from "../shared/facts.tsx";
import { count, megabytes } from "./numbers.ts";
import { Privacy } from "./privacy.tsx";
import { Data, holdsHeads } from "./data.tsx";

/** The view before somebody takes part. */
export function Offer(): JSX.Element {
  const run = about.value!;
  const isOver = run.status === "ended" || run.status === "failed";
  return (
    <>
      <header>
        <h1>Take part in a training run</h1>
        <p class="quiet">
          {run.base?.name || "A language model"}{" "}
          learns on several devices together. This one can be one of them.
        </p>
      </header>
      <Run />
      <Work />
      <Data />
      <Privacy />
      <NameForm
        button="Take part"
        disabled={isOver}
        onName={(name) => join(name, data.value !== null && !holdsHeads.value ? 0 : 1)}
      />
      {isOver ? <p>The run is over.</p> : null}
    </>
  );
}

/** The run, and who is in. */
function Run(): JSX.Element {
  const run = about.value!;
  const others = run.devices.filter((device) => device.connected);
  return (
    <section class="card" aria-labelledby="run">
      <h2 id="run">The run</h2>
      <Facts
        facts={[
          ["Name", run.run],
          ["Model", run.base?.name || "not named"],
          ["State", run.status === "waiting" ? "waiting for devices" : run.status],
          ["Steps", `${count(run.step)} of ${count(run.steps)}`],
          ["Devices with heads", `${others.filter((d) => d.capacity > 0).length} of ${run.places}`],
        ]}
      />
      <h3>Who is in</h3>
      {others.length === 0 ? <p>Nobody yet.</p> : (
        <ul>
          {others.map((device) => (
            <li key={device.id}>
              {device.name}
              <span class="quiet">
                {device.data ? " has the data" : ""}
                {device.heads === null ? "" : ` ${device.heads} heads`}
              </span>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

/** What this device would do. */
function Work(): JSX.Element {
  const work = forecast.value;
  return (
    <section class="card" aria-labelledby="work">
      <h2 id="work">What this device would do</h2>
      {work === null ? <p>There is no place for heads left in this run.</p> : (
        <Facts
          facts={[
            ["Heads", `${work.heads} in each of ${about.value!.model!.layers} layers`],
            ["Numbers it trains", count(work.parameters)],
            ["Memory", `about ${megabytes(work.memoryBytes)}`],
            ["Sent and received", `about ${megabytes(work.stepBytes)} a step of ${work.tokens} tokens`],
            ["Graphics processor", adapter.value],
            ...(data.value === null ? [] : [["Data", data.value.name] as const]),
          ]}
        />
      )}
    </section>
  );
}

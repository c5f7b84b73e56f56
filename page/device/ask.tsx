/**
 * The views before the host has let this device in.
 *
 * @module
 */

import type { JSX } from "preact";
import { Privacy } from "./privacy.tsx";
import { ask, asked, deviceName, failure } from "./view_state.ts";

/** Asks for a name, and says what is sent. */
export function Ask(): JSX.Element {
  return (
    <>
      <header>
        <h1>You are invited to a training run</h1>
        <p class="quiet">
          A language model learns on several devices together. The host of the run lets each device in by
          hand.
        </p>
      </header>
      <form
        class="card"
        onSubmit={(event) => {
          event.preventDefault();
          ask(deviceName.value.trim() || "phone");
        }}
      >
        <label>
          Name of this device, for the host
          <input
            name="name"
            maxLength={40}
            autocomplete="off"
            value={deviceName.value}
            onInput={(event) => deviceName.value = event.currentTarget.value}
          />
        </label>
        <p class="quiet">Asking sends this name and a key that was made here. Nothing begins yet.</p>
        <button class="main" type="submit">Ask the host</button>
        {failure.value === "" ? null : <p role="alert" class="bad">{failure.value}</p>}
      </form>
      <Privacy />
    </>
  );
}

/** While the host decides. */
export function Asked(): JSX.Element {
  const request = asked.value!;
  return (
    <>
      <header>
        <h1>Waiting for the host</h1>
        <p role="status">
          The host sees “{request.name}” asking to join run {request.run}.
        </p>
      </header>
      <section class="card" aria-labelledby="code">
        <h2 id="code">Compare this number</h2>
        <p class="code">{request.code}</p>
        <p class="quiet">The host sees the same number if it is this device that asks.</p>
      </section>
    </>
  );
}

/**
 * The views before the host has let this device in.
 *
 * @module
 */

import type { JSX } from "preact";
import { NameForm } from "./name_form.tsx";
import { Privacy } from "./privacy.tsx";
import { ask, asked } from "./view_state.ts";

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
      <NameForm button="Ask the host" onName={ask}>
        <p class="quiet">Asking sends this name and a key that was made here. Nothing begins yet.</p>
      </NameForm>
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

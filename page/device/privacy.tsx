/**
 * What leaves the device, and what others could compute from it.
 *
 * @module
 */

import type { JSX } from "preact";
import { data } from "./view_state.ts";

/** Says it, for a device with heads, with data, or both. */
export function Privacy(): JSX.Element {
  return (
    <section class="card" aria-labelledby="privacy">
      <h2 id="privacy">What leaves this device</h2>
      {data.value === null ? <OfHeads /> : <OfData />}
      <p class="quiet">
        The name that you give, the kind of work and the address of this device are seen by the host. Nothing
        else of this device is read: no files, no photos, no contacts, no location.
      </p>
    </section>
  );
}

function OfHeads(): JSX.Element {
  return (
    <>
      <p>
        Only results of calculations on what the server sends: in each step the outputs of this device's heads
        and their gradients. What the heads have learnt stays here.
      </p>
      <p>
        The server could compute what the heads have learnt from inputs and outputs of many steps. This device
        gives it no texts.
      </p>
    </>
  );
}

function OfData(): JSX.Element {
  return (
    <>
      <p>
        The text itself and its tokens stay here. In each step the embeddings of the tokens leave, and the
        gradient of the last layer; the loss only if you share it.
      </p>
      <p>
        <strong>
          Embeddings can be turned back into tokens by whoever has the model, and the server has it.
        </strong>{" "}
        Use texts that the host may see.
      </p>
    </>
  );
}

/**
 * What this browser keeps of a run, to be taken away or forgotten.
 *
 * @module
 */

import type { JSX } from "preact";
import { megabytes } from "./numbers.ts";
import { download, kept, tell } from "./view_state.ts";

/** What is kept; nothing if nothing is. */
export function KeptHere(): JSX.Element | null {
  const heads = kept.value;
  if (heads === null) return null;
  return (
    <section class="card" aria-labelledby="kept">
      <h2 id="kept">Kept in this browser</h2>
      <p>
        What the heads of this device learnt in {heads.steps} steps of {heads.run}: {megabytes(heads.bytes)}.
      </p>
      <div class="buttons">
        <button type="button" onClick={() => download("peft")}>
          Download as a PEFT adapter
        </button>
        <button type="button" onClick={() => download("heads")}>
          Download to join with others
        </button>
        <button type="button" onClick={() => tell({ type: "forget" })}>Forget</button>
      </div>
      <p class="quiet">
        In the PEFT adapter heads of other devices change nothing. Files to join: edgetuner export takes those
        of all devices together.
      </p>
    </section>
  );
}

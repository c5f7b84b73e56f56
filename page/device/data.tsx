/**
 * The question whether this device has texts to learn from.
 *
 * @module
 */

import { signal } from "@preact/signals";
import type { JSX } from "preact";
import { about, choose, data } from "./view_state.ts";

/** A device with data holds heads too. */
export const holdsHeads = signal(true);

/** Chooses a file, and how it is learnt. */
export function Data(): JSX.Element | null {
  const isTaken = about.value!.devices.some((device) => device.data && device.connected);
  if (isTaken && data.value === null) return null;
  const chosen = data.value;
  return (
    <section class="card" aria-labelledby="data">
      <h2 id="data">Do you have the texts?</h2>
      <p class="quiet">
        One device of a run has the texts that the model learns. If it is this one, choose the file: plain
        text, or a line an example, as prompt||completion or JSON.
      </p>
      <label>
        File
        <input type="file" name="file" onChange={(event) => void take(event.currentTarget.files?.[0])} />
      </label>
      {chosen === null ? null : (
        <>
          <NumberField name="batch" label="Texts of a step" value={chosen.batch} />
          <NumberField name="length" label="Tokens of a text" value={chosen.length} />
          <label class="check">
            <input
              type="checkbox"
              checked={chosen.sharesLoss}
              onChange={(event) => choose({ ...chosen, sharesLoss: event.currentTarget.checked })}
            />
            The host may see the loss of each step
          </label>
          <label class="check">
            <input
              type="checkbox"
              checked={holdsHeads.value}
              onChange={(event) => holdsHeads.value = event.currentTarget.checked}
            />
            Hold heads too
          </label>
        </>
      )}
    </section>
  );
}

function NumberField({ name, label, value }: {
  readonly name: "batch" | "length";
  readonly label: string;
  readonly value: number;
}): JSX.Element {
  return (
    <label>
      {label}
      <input
        type="number"
        name={name}
        min={1}
        max={4096}
        value={value}
        onInput={(event) => {
          const given = event.currentTarget.valueAsNumber;
          if (given >= 1) choose({ ...data.value!, [name]: Math.floor(given) });
        }}
      />
    </label>
  );
}

async function take(file: File | undefined): Promise<void> {
  if (file === undefined) return choose(null);
  choose({ name: file.name, text: await file.text(), batch: 8, length: 80, seed: 1, sharesLoss: true });
}

/**
 * The form in which a person names this device and lets it begin.
 *
 * @module
 */

import type { ComponentChildren, JSX } from "preact";
import { deviceName, failure } from "./view_state.ts";

/** A name, a button, and what went wrong the last time. `children` stand above the button. */
export function NameForm(
  { button, disabled = false, onName, children }: {
    readonly button: string;
    readonly disabled?: boolean;
    readonly onName: (name: string) => void;
    readonly children?: ComponentChildren;
  },
): JSX.Element {
  return (
    <form
      class="card"
      onSubmit={(event) => {
        event.preventDefault();
        onName(deviceName.value.trim() || "phone");
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
      {children}
      <button class="main" type="submit" disabled={disabled}>{button}</button>
      {failure.value === "" ? null : <p role="alert" class="bad">{failure.value}</p>}
    </form>
  );
}

/**
 * An invite for one device: an address, and a QR code of it.
 *
 * @module
 */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { encode } from "uqr";
import { attempt, client, type RunState, told } from "./state.ts";

/** Squares around the code that stay light. */
const BORDER = 2;

/** Makes an invite for one device, and shows it. */
export function Invite({ state }: { readonly state: RunState }): JSX.Element {
  const [link, setLink] = useState("");
  const make = () =>
    attempt(async () => {
      const { path } = await client.call("POST /api/runs/:run/invites", { params: { run: state.run } });
      setLink(location.origin + path);
      told.value = "An invite for one device is shown";
    });
  const button = (
    <button type="button" class="small" onClick={() => void make()}>
      {link === "" ? "Invite a device" : "Invite another device"}
    </button>
  );
  if (link === "") return button;
  return (
    <div
      class="invite"
      role="group"
      aria-label="Invite"
      onKeyDown={({ key }) => key === "Escape" && setLink("")}
    >
      <Code text={link} />
      <div>
        <label>
          For one device, for ten minutes: open it there, or scan the code
          <input type="text" readOnly value={link} onFocus={({ currentTarget }) => currentTarget.select()} />
        </label>
        {/^(localhost|127\.|\[::1\])/.test(location.hostname)
          ? (
            <p class="quiet">
              Only this machine reaches {location.hostname}. Open this page by the address that others have.
            </p>
          )
          : location.protocol === "https:"
          ? null
          : <p class="quiet">A browser may compute over https alone; programs may join as it is.</p>}
        <div class="buttons">
          {button}
          <button type="button" class="small" onClick={() => setLink("")}>Close</button>
        </div>
      </div>
    </div>
  );
}

/** A QR code: dark on light in both schemes, as cameras expect. */
function Code({ text }: { readonly text: string }): JSX.Element {
  const { data, size } = encode(text, { border: BORDER });
  const path = data.flatMap((row, y) => row.flatMap((dark, x) => dark ? [`M${x} ${y}h1v1h-1z`] : [])).join(
    "",
  );
  return (
    <svg class="code" viewBox={`0 0 ${size} ${size}`} role="img" aria-label="QR code of the invite">
      <rect width={size} height={size} fill="#fff" />
      <path d={path} fill="#000" shape-rendering="crispEdges" />
    </svg>
  );
}

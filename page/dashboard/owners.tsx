/**
 * Several people's data in one run: whose turn it is, and what each owner's loss is.
 *
 * @module
 */

import type { JSX } from "preact";
import { count, figure } from "./numbers.ts";
import type { RunState } from "./state.ts";

/** What a validation says of an owner. */
interface OwnerLoss {
  readonly name: string;
  readonly loss: number;
}

/** Owners of the data; nothing where there is one. */
export function Owners({ state }: { readonly state: RunState }): JSX.Element | null {
  const recent = state.recent.value;
  const names = state.devices.value.filter(({ data }) => data).map(({ name }) => name);
  if (names.length < 2) return null;
  const last = recent.at(-1)?.owners ?? [];
  const validation = state.events.value.findLast(({ type }) => type === "validation");
  const losses = (validation?.data.owners ?? []) as readonly OwnerLoss[];
  return (
    <section class="card" aria-labelledby="owners-title">
      <h2 id="owners-title">Owners of data</h2>
      <table class="bars">
        <caption class="unseen">Owners of data, their turns and losses</caption>
        <thead>
          <tr>
            <th scope="col">Owner</th>
            <th scope="col">Last {count(recent.length)} steps</th>
            <th scope="col">Loss</th>
            <th scope="col">Validation</th>
          </tr>
        </thead>
        <tbody>
          {names.map((name) => {
            const own = recent.filter(({ owners = [] }) => owners.includes(name));
            // The loss of a mixed step is that of all its owners.
            const alone = own.findLast(({ owners = [] }) => owners.length === 1);
            return (
              <tr key={name}>
                <th scope="row">
                  {name} {last.includes(name) ? <span class="status calm">last turn</span> : null}
                </th>
                <td>{count(own.length)}</td>
                <td>{figure(alone?.loss)}</td>
                <td>{figure(losses.find((owner) => owner.name === name)?.loss)}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </section>
  );
}

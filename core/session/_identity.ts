/**
 * Who a device is: its id if it has one, else its name. Names are for people.
 *
 * @module
 */

import type { SavedDevice } from "./run_state.ts";

/** What a device says of who it is. */
export interface Identity {
  /** Its name. */
  readonly name: string;
  /** Its id, if it has one. */
  readonly id?: string | undefined;
}

/** What people see of an id. */
export function shortId(id: string | undefined): string {
  return id?.slice(0, 8) ?? "";
}

/** A device in messages to people. */
export function textOf({ name, id }: Identity): string {
  return id === undefined ? `"${name}"` : `"${name}" (id ${shortId(id)})`;
}

/** True if both are the same device: by their ids, or by their names where one has no id. */
export function isSame(a: Identity, b: Identity): boolean {
  return a.id !== undefined && b.id !== undefined ? a.id === b.id : a.name === b.name;
}

/** True if people mean a device by a text: its id, what they see of it, or its name if it has none. */
export function isCalled({ name, id }: Identity, text: string): boolean {
  return id === undefined ? text === name : text === id || text === shortId(id);
}

/** Devices with heads of a state, in order of their heads. */
export function savedWithHeads(
  devices: readonly SavedDevice[] | null,
): (SavedDevice & { readonly range: NonNullable<SavedDevice["range"]> })[] {
  return (devices ?? []).flatMap((d) => d.range === null ? [] : [{ ...d, range: d.range }])
    .sort((a, b) => a.range.first - b.range.first);
}

/**
 * Variables of the environment, where the process may read them.
 *
 * @module
 */

/**
 * A variable of the environment. Without the permission to read it, it counts as not set: asking for it would stop
 * and ask the user.
 *
 * @param name Its name.
 * @returns Its value; `undefined` if it is not set, empty, or not to be read.
 */
export function environmentVariable(name: string): string | undefined {
  if (Deno.permissions.querySync({ name: "env", variable: name }).state !== "granted") return undefined;
  return Deno.env.get(name) || undefined;
}

/**
 * Terminals of other widths, for the thread of a test alone: the environment belongs to all tests that run.
 *
 * @module
 */

/**
 * Does something in a terminal of so many columns.
 *
 * @param columns What `COLUMNS` says there.
 */
export async function inColumns<T>(columns: number, task: () => Promise<T>): Promise<T> {
  const { get } = Deno.env;
  Deno.env.get = (name) => name === "COLUMNS" ? `${columns}` : get.call(Deno.env, name);
  try {
    return await task();
  } finally {
    Deno.env.get = get;
  }
}

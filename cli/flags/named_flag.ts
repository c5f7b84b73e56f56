/**
 * Which flag an error is about that knows only the flag's value.
 *
 * @module
 */

/** Flags whose values are never shown. */
const SECRET: ReadonlySet<string> = new Set(["token", "join-token", "admin-token", "api-key"]);

/** Flags that were typed, with their values. */
function* typed(args: readonly string[]): Generator<readonly [name: string, value: string]> {
  for (const [i, arg] of args.entries()) {
    const [, name, , inline] = /^--([a-z0-9-]+)(=(.*))?$/s.exec(arg) ?? [];
    if (name === undefined) continue;
    const next = args[i + 1];
    if (inline !== undefined) yield [name, inline];
    else if (next !== undefined && !next.startsWith("--")) yield [name, next];
  }
}

/**
 * Adds to an error the flag that it comes from: the library's errors name a file, and a person wants to know which
 * flag named it.
 *
 * @param message The error's.
 * @param args Flags as they were typed.
 * @returns The message, with ` (--name value)` behind it if it holds the value of a flag, and names no flag by itself.
 */
export function withFlag(message: string, args: readonly string[]): string {
  if (/(^|[\s(])--[a-z]/.test(message)) return message;
  // Of several the longest: a folder is a part of the files in it.
  const found = [...typed(args)]
    .filter(([name, value]) =>
      !SECRET.has(name) && /[/\\.]|^\D{4,}$/.test(value) && Number.isNaN(Number(value))
    )
    .filter(([, value]) => message.includes(value))
    .toSorted((a, b) => b[1].length - a[1].length)[0];
  return found === undefined ? message : `${message} (--${found[0]} ${found[1]})`;
}

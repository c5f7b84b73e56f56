/**
 * Stand-in for the part of `@std/cli` that this repository uses, so that a checkout tests itself where only
 * npm can be reached. Published packages use the real one; `deno task test:jsr` runs the tests with it.
 *
 * @module
 */
export * from "./parse_args.ts";

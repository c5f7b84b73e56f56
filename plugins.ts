/**
 * All pruners, with their options and states: all of `@edgetuner/plugins`.
 *
 * @module
 */

export * from "@edgetuner/plugins";

/**
 * Models, head modules, training, the protocol and sessions: all of `@edgetuner/core`.
 *
 * @module
 */

export * from "@edgetuner/core";

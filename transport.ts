/**
 * Transports, emulated links, simulation and planning: all of `@edgetuner/transport`.
 *
 * @module
 */

export * from "@edgetuner/transport";

/**
 * The control API as its callers see it: a typed client, and the types of what it takes and answers.
 *
 * @module
 */

export * from "@edgetuner/transport/control";

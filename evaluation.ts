/**
 * Scores of generated texts and of chosen answers. Apart from the main entry point, so that those who do not
 * score load none of it.
 *
 * @module
 */

export * from "@edgetuner/core/evaluation";

/**
 * Paths of folders of this repository, as the file system has them. An address writes a space, "ü", "#" and "%"
 * in another way.
 *
 * @module
 */

import { fileURLToPath } from "node:url";

/** The repository, with a slash at the end. */
export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** `examples/`. */
export const EXAMPLES = `${ROOT}examples/`;

/** `cli/assets/`: the tiny model, its predictor and its data. */
export const ASSETS = `${ROOT}cli/assets/`;

/** `tests/fixtures/`. */
export const FIXTURES = `${ROOT}tests/fixtures/`;

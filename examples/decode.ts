/**
 * `edgetuner decode` as a program: `--help` says what it does.
 *
 * @module
 */

import { runCommand } from "@edgetuner/cli";

if (import.meta.main) await runCommand("decode");

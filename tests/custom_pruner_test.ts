import type { Pruner } from "@edgetuner/core";
import restingPruner from "../examples/custom_pruner.ts";
import { testPruner } from "./conformance/pruner_suite.ts";

testPruner({ name: "resting (example)", create: () => restingPruner() as Pruner });

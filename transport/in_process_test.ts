import { testTransport } from "../tests/conformance/transport_suite.ts";
import { openInProcess } from "./_fixtures_test.ts";

testTransport({ name: "in process", open: openInProcess });

import { testTransport } from "../tests/conformance/transport_suite.ts";
import { openInProcess } from "./_test_fixtures.ts";

testTransport({ name: "in process", open: openInProcess });

// Drives @segment/analytics-node by the command line of Segment's end-to-end tests; runs in its environment.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

// The package lives where the command is run, not beside this file.
const { Analytics } = createRequire(`${process.cwd()}/`)("@segment/analytics-node");

const text = process.argv[process.argv.indexOf("--input") + 1];
const given = JSON.parse(text === "-" ? readFileSync(0, "utf8") : text);
const config = given.config ?? {};
const problems = [];

const analytics = new Analytics({
  writeKey: given.writeKey,
  host: given.apiHost,
  ...(config.flushAt !== undefined && { flushAt: config.flushAt }),
  ...(config.flushInterval !== undefined && { flushInterval: config.flushInterval }),
  ...(config.maxRetries !== undefined && { maxRetries: config.maxRetries }),
  ...(config.timeout !== undefined && { httpRequestTimeout: config.timeout * 1000 }),
});
analytics.on("error", (error) => problems.push(`${error.code}: ${error.reason}`));

for (const sequence of given.sequences) {
  await sleep(sequence.delayMs ?? 0);
  for (const { type, ...fields } of sequence.events) {
    try {
      analytics[type](fields, (error) => error && problems.push(String(error)));
    } catch (error) {
      problems.push(String(error));
    }
  }
}
await analytics.closeAndFlush({ timeout: 60_000 });

const error = problems.length ? { error: [...new Set(problems)].join("; ") } : {};
console.log(JSON.stringify({ success: problems.length === 0, sentBatches: 0, ...error }));
process.exit(problems.length ? 1 : 0);
